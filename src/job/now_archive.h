/* SPDX-License-Identifier: MIT */
/*
 * The archive of a volume as of one moment: its exact size at once, its bytes
 * when they are asked for.
 *
 * (Not called archive_*: libarchive's names begin so, and a function of the same
 * name would be called in place of its own.)
 *
 * Where the volume can be read file by file it is virtual: a layout of what is
 * there, and the files themselves as they are read (tar/vtar.h); nothing is
 * stored.  Otherwise it is a complete copy in the spool.
 */
#ifndef DVOLFS_JOB_NOW_ARCHIVE_H
#define DVOLFS_JOB_NOW_ARCHIVE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "job/spool.h"
#include "volume/volumes.h"

#include <stdint.h>
#include <time.h>

struct now_archive;

struct now_archive_info {
    uint64_t bytes;
    struct timespec newest; /* the last change in the volume, as far as it can be told */
};

/*
 * Makes one.  What is told later of files that changed meanwhile goes to log.
 * Blocks.  Errors as volumes_read and volumes_contents.
 */
must_check int now_archive_make(struct volumes *volumes, struct spool *spool, struct log *log,
                                const char *volume, struct cancel *cancel,
                                struct now_archive **ret_archive, struct fail *why);
void now_archive_free(struct now_archive *archive);
DEFINE_CLEANUP(cleanup_now_archive_impl, struct now_archive, now_archive_free)
#define cleanup_now_archive cleanup(cleanup_now_archive_impl)

struct now_archive_info now_archive_info(const struct now_archive *archive);

/* How many files are not in it as they were when it was made; 0 for a spooled one. */
uint64_t now_archive_affected(const struct now_archive *archive);

/*
 * Up to len bytes at offset, fewer only at its end.  Any thread, several at
 * once.  After an error no byte counts.  Blocks on the files.
 */
must_check ssize_t now_archive_read(struct now_archive *archive, void *data, size_t len,
                                    uint64_t offset, struct fail *why);

#endif
