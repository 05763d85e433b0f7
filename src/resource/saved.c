/*
 * Promises that what is read back is what was written, or refused. Deliberately not here: what becomes of the process.
 */
#include "resource/saved.h"
#include "base/fields.h"
#include "base/words.h"
#include <inttypes.h>
#include <stdio.h>

int saved_words(char ***fields, const char *name, char *const *words)
{
        int r = 0;

        for (; r == 0 && words && *words; words++)
                r = strv_appendf(fields, "%s=%s", name, *words);
        return r;
}

int saved_words_read(char *const *fields, const char *name, char ***ret_words)
{
        size_t length = strlen(name);
        int r = 0;

        for (; r == 0 && fields && *fields; fields++)
                if (startswith(*fields, name) && (*fields)[length] == '=')
                        r = strv_append(ret_words, *fields + length + 1);
        return r;
}

int saved_process(char ***fields, const struct process_identity *process)
{
        int r;

        if (process->pid == 0)
                return 0;
        r = strv_appendf(fields, "pid=%d", (int)process->pid);
        if (r == 0)
                r = strv_appendf(fields, "start=%" PRIu64, process->start);
        if (r == 0)
                r = strv_appendf(fields, "boot=%s", process->boot);
        return r;
}

int saved_process_read(char *const *fields, struct process_identity *ret)
{
        const char *boot = fields_get(fields, "boot");
        struct process_identity process = { 0 };
        uint64_t pid;

        if (!fields_get(fields, "pid"))
                return 0;
        if (fields_get_u64(fields, "pid", &pid) < 0 || pid == 0 || pid > INT32_MAX ||
            fields_get_u64(fields, "start", &process.start) < 0 || !boot ||
            strlen(boot) >= sizeof(process.boot))
                return -EINVAL;
        process.pid = (pid_t)pid;
        (void)stpcpy(process.boot, boot);
        *ret = process;
        return 0;
}
