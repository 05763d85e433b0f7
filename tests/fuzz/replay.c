/*
 * Feeds one fuzz target, linked to this, every file of the folder that is named: what the fuzzers once found stays
 * mended, with any compiler. It finds nothing new; `make fuzz` does.
 */
#include "base/util.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(int directory_fd, const char *name)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ uint8_t *data = NULL;
        struct stat st;

        /* No byte more than the input, so that a sanitizer sees a read beyond it. */
        if (fd < 0 || fstat(fd, &st) < 0 || !(data = malloc((size_t)st.st_size)) ||
            read(fd, data, (size_t)st.st_size) != st.st_size) {
                perror(name);
                return -1;
        }
        (void)printf("%s\n", name); /* the last one is to blame */
        (void)fflush(stdout);
        return LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
        struct dirent **entries;
        int n = argc == 2 ? scandir(argv[1], &entries, NULL, alphasort) : -1, r = 0;
        _cleanup_close_ int directory_fd = n < 0 ? -1 : open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (directory_fd < 0) {
                (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
                return 2;
        }
        for (int i = 0; i < n; i++) {
                if (r == 0 && entries[i]->d_name[0] != '.')
                        r = replay(directory_fd, entries[i]->d_name);
                free(entries[i]);
        }
        free(entries);
        return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
