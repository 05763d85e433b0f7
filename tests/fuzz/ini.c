/*
 * Fuzzes config/ini and all that reads its entries: the input is a configuration file. Whatever it holds, the
 * answer is a config or a list of faults, each with its place; and what a config is printed as is a file that
 * loads without a fault and is printed the same.
 */
#include "config/config.h"
#include <fcntl.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file that has a path but is in no folder. */
static int new_file(const void *bytes, size_t size, char path[static 32])
{
        int fd = memfd_create("fuzz-ini", MFD_CLOEXEC);

        if (fd < 0 || (size > 0 && write(fd, bytes, size) != (ssize_t)size))
                abort();
        (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
        return fd;
}

static void check_faults(const char *path, char *const *faults)
{
        assert(strv_length(faults) > 0);
        for (; *faults; faults++)
                assert(startswith(*faults, path) && (*faults)[strlen(path)] == ':');
}

static char *print(const struct config *config, size_t *ret_size)
{
        char *text = NULL;
        FILE *stream = open_memstream(&text, ret_size);

        if (!stream || config_print(config, stream) != 0 || fclose(stream) != 0)
                abort();
        return text;
}

static void check_config(const struct config *config)
{
        _cleanup_(config_unrefp) struct config *again = NULL;
        _cleanup_strv_free_ char **faults = NULL;
        _cleanup_free_ char *text = NULL, *text_again = NULL;
        _cleanup_close_ int fd = -1;
        size_t size, size_again;
        char path[32];

        text = print(config, &size);
        fd = new_file(text, size, path);
        if (config_load(path, &again, &faults) != 0) {
                (void)fprintf(stderr, "%sdoes not load: %s\n", text, faults ? faults[0] : "no memory");
                abort();
        }
        text_again = print(again, &size_again);
        if (size != size_again || memcmp(text, text_again, size) != 0) {
                (void)fprintf(stderr, "%sis printed again as\n%s", text, text_again);
                abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_(config_unrefp) struct config *config = NULL;
        _cleanup_strv_free_ char **faults = NULL;
        _cleanup_close_ int fd = -1;
        char path[32];

        fd = new_file(data, size, path);
        int r = config_load(path, &config, &faults);
        if (r == CONFIG_E_INVALID) {
                assert(!config);
                check_faults(path, faults);
        } else {
                assert(r == 0 && !faults);
                check_config(config);
        }
        return 0;
}
