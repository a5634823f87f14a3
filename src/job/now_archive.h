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
 * stored.  Otherwise it is a complete copy in the spool.  A compressed one is made
 * of either, and is in the spool as well: its size is not known before.
 */
#ifndef DVOLFS_JOB_NOW_ARCHIVE_H
#define DVOLFS_JOB_NOW_ARCHIVE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "job/jobs.h"
#include "job/spool.h"
#include "volume/volumes.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct layout;
struct now_archive;

struct now_archive_info {
    uint64_t bytes;
    struct timespec newest; /* the last change in the volume, as far as it can be told */
};

enum now_format { NOW_TAR, NOW_TAR_GZ, NOW_TAR_ZST };

/* "now.tar", "now.tar.gz", "now.tar.zst" */
const char *now_format_name(enum now_format format);

struct now_archive_conf {
    struct volumes *volumes;
    struct spool *spool;
    struct log *log;   /* is told later of files that changed meanwhile; may be NULL */
    struct jobs *jobs; /* where compressing is seen; may be NULL */
    const char *volume;
    const char *name; /* for log and jobs: in the volume's snapshots/ */
    enum now_format format;
    int level; /* of zstd */
};

/* Makes one; *conf is not needed afterwards, but what it points to: spool, log.  Blocks.
 * Errors as volumes_read and volumes_contents; of a full spool. */
must_check int now_archive_make(const struct now_archive_conf *conf, struct cancel *cancel,
                                struct now_archive **ret_archive, struct fail *why);

/* Makes a virtual one of these contents, of which it keeps a reference; of conf only log,
 * volume and name count. */
must_check int now_archive_of(struct contents *contents, const struct now_archive_conf *conf,
                              struct cancel *cancel, struct now_archive **ret_archive,
                              struct fail *why);
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
                                    uint64_t offset, struct cancel *cancel, struct fail *why);

/* ---- for those who keep it (job/take.h) ---------------------------------------------- */

/* The layout of a virtual one, else NULL. */
const struct layout *now_archive_layout(const struct now_archive *archive);
/* The complete tar of a spooled one, else -1. */
int now_archive_fd(const struct now_archive *archive);

/* Of a virtual one's entries: see tar/vtar.h. */
bool now_archive_is_affected(const struct now_archive *archive, size_t index);
bool now_archive_is_missing(const struct now_archive *archive, size_t index);
void now_archive_note_given(struct now_archive *archive, size_t index);

/*
 * From now on reading waits for a write(2) into a large file that is under way, as some
 * file systems do themselves: others give out half of it, and its ctime is from when
 * it began.  (O_DIRECT is not waited for.)
 */
void now_archive_wait_for_writes(struct now_archive *archive);

#endif
