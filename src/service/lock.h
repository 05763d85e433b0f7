/*
 * lock: two daemons never share a directory. The lock is a record lock (fcntl(2)) on DIRECTORY/lock, which
 * the kernel drops with the process however it dies, does not pass to children, and can name the holder of.
 */
#pragma once

#include "base/util.h"
#include <sys/types.h>

/*
 * Locks the directory for as long as *ret_fd is open, making the directory (0755) where only its last
 * component is missing. Returns 0; LOCK_E_HELD with *ret_holder (0: a process that we cannot see); or a
 * negative errno.
 */
enum { LOCK_E_HELD = 1 };
int lock_directory(const char *path, int *ret_fd, pid_t *ret_holder);
