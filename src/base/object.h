/*
 * object: the file of a shared object, judged without running anything of it: whether it is one for this machine,
 * and whether anybody but root and us could have written it, or could put another one in its place.
 */
#pragma once

#include "base/util.h"
#include <sys/stat.h>

/* Which file it was: any change of it, or of what is at its path, shows. */
struct object_identity {
        dev_t device;
        ino_t inode;
        off_t size;
        struct timespec modified;
};

#define OBJECT_REASON_MAX 512

/*
 * `path` is absolute. Returns 0 with *ret_identity; or -EINVAL with the reason in `reason`, a sentence without a full
 * stop.
 */
int object_judge(const char *path, struct object_identity *ret_identity,
                 char reason[static OBJECT_REASON_MAX]);

bool object_is_same(const struct object_identity *a, const struct object_identity *b);
