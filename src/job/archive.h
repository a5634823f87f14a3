/* SPDX-License-Identifier: MIT */
/*
 * The archive of a volume as of one moment: its exact size at once, its bytes
 * when they are asked for.
 *
 * Where the volume can be read file by file it is virtual: a layout of what is
 * there, and the files themselves as they are read (tar/vtar.h); nothing is
 * stored.  Otherwise it is a complete copy in the spool.
 */
#ifndef DVOLFS_JOB_ARCHIVE_H
#define DVOLFS_JOB_ARCHIVE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "job/spool.h"
#include "volume/volumes.h"

#include <stdint.h>
#include <time.h>

struct archive;

struct archive_info {
    uint64_t bytes;
    struct timespec newest; /* the last change in the volume, as far as it can be told */
};

/*
 * Makes one.  What is told later of files that changed meanwhile goes to log.
 * Blocks.  Errors as volumes_read and volumes_contents.
 */
must_check int archive_make(struct volumes *volumes, struct spool *spool, struct log *log,
                            const char *volume, struct cancel *cancel, struct archive **ret_archive,
                            struct fail *why);
void archive_free(struct archive *archive);
DEFINE_CLEANUP(cleanup_archive_impl, struct archive, archive_free)
#define cleanup_archive cleanup(cleanup_archive_impl)

struct archive_info archive_info(const struct archive *archive);

/* How many files are not in it as they were when it was made; 0 for a spooled one. */
uint64_t archive_affected(const struct archive *archive);

/*
 * Up to len bytes at offset, fewer only at its end.  Any thread, several at
 * once.  After an error no byte counts.  Blocks on the files.
 */
must_check ssize_t archive_read(struct archive *archive, void *data, size_t len, uint64_t offset,
                                struct fail *why);

#endif
