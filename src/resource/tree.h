/*
 * tree: removes a directory and what is in it, and nothing else, whatever others do to it meanwhile: no link
 * is followed, no mount entered. It blocks, so it runs in a process of its own (child_fork()).
 */
#pragma once

#include "base/util.h"
#include <sys/types.h>

/*
 * Removes the directory `name` in `parent_fd` if it is that very one; another, or none, is left alone and no
 * error. Stops at the first thing that cannot be removed: returns its negative errno (-EBUSY: a mount point) and
 * its path in `path`. What is left then may have been moved up within the directory, under a name that begins
 * with a number.
 */
#define TREE_PATH_MAX 1024
int tree_remove(int parent_fd, const char *name, dev_t device, ino_t inode, char path[static TREE_PATH_MAX]);
