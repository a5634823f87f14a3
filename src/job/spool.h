/* SPDX-License-Identifier: MIT */
/* Where transient copies go: a directory of files without names, so that nothing
 * is left of them after a crash. */
#ifndef DVOLFS_JOB_SPOOL_H
#define DVOLFS_JOB_SPOOL_H

#include "base/fail.h"

#include <sys/statvfs.h>

struct spool;

/* The spool in dir, made where it is missing.  -errno with why: it cannot be
 * made, or files cannot be made in it. */
must_check int spool_open(const char *dir, struct spool **ret_spool, struct fail *why);
void spool_close(struct spool *spool);

/* A new empty file, read and write, gone with its descriptor (the caller's). */
must_check int spool_file(struct spool *spool, struct fail *why);

/* As statvfs(3) of the directory: 0 or -errno. */
must_check int spool_statvfs(struct spool *spool, struct statvfs *ret_stat);

#endif
