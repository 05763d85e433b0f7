/* The child of bench-process: does nothing but wait for the end of its input. */
#include <unistd.h>

int main(void)
{
        char byte;

        while (read(STDIN_FILENO, &byte, sizeof(byte)) > 0)
                ;
        return 0;
}
