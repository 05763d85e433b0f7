/* Put before every file of the daemon that faults.c is linked into. See there. */
#include <stdbool.h>
#include <unistd.h>

bool vfork_fails(void);
#define vfork() (vfork_fails() ? -1 : vfork())
