/* SPDX-License-Identifier: MIT */
/* Whole reads and writes on file descriptors.  All of them block. */
#ifndef DVOLFS_BASE_FD_H
#define DVOLFS_BASE_FD_H

#include "base/fail.h"

#include <stdint.h>
#include <sys/types.h>

/* Writes all of it at offset.  0 or -errno of pwrite(2). */
must_check int fd_pwrite_all(int fd, const void *data, size_t len, uint64_t offset);

/*
 * Reads up to len bytes at offset, fewer only at the end of the file: their
 * number, or -errno of pread(2).
 */
must_check ssize_t fd_pread_full(int fd, void *data, size_t len, uint64_t offset);

/*
 * Has the disk begin with what was written from *begun to end, once that is some megabytes,
 * and moves *begun: fsync(2) would else wait for all of it.  Waits only where the disk has too
 * much to do already (sync_file_range(2)); what cannot be done so is left to fsync(2).
 */
void fd_begin_writing(int fd, uint64_t *begun, uint64_t end);

/*
 * A new file in directory dir that has no name, so that nothing is left of it
 * whenever its descriptor goes, a crash included (O_TMPFILE; where the file
 * system lacks it, a name that is removed at once).  The descriptor (read and
 * write, close-on-exec, mode 0600), or -errno with why.
 */
must_check int fd_unnamed_file(const char *dir, struct fail *why);

/* Creates dir and its missing parents, 0700 each.  0 or -errno with why. */
must_check int fd_make_dirs(const char *dir, struct fail *why);

#endif
