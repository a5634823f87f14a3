/* SPDX-License-Identifier: MIT */
/*
 * Kept snapshots of volumes: taking, importing, looking into and managing them.
 *
 * Any thread may call.  Calls that take or import block for as long as that takes and
 * heed cancel until the snapshot is being published; the others block on the disk.
 * Errors with why: -ENOSPC, -EIO, -ENOMEM of the store; others as told.
 */
#ifndef DVOLFS_JOB_KEPT_H
#define DVOLFS_JOB_KEPT_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "job/jobs.h"
#include "job/spool.h"
#include "store/snapshot.h"
#include "store/store.h"
#include "volume/volumes.h"

struct kept;

struct kept_conf {
    struct volumes *volumes;
    struct spool *spool;
    struct log *log;
    struct jobs *jobs;
    const char *store; /* the directory */
    int level;         /* of zstd */
};

/* Copies *conf; what it points to must outlive it. */
must_check int kept_start(const struct kept_conf *conf, struct kept **ret_kept, struct fail *why);
/* No call may be under way.  NULL is allowed. */
void kept_stop(struct kept *kept);

struct store *kept_store(struct kept *kept);

/*
 * Takes a snapshot of the volume as it is now.  When it returns 0 that is safe on
 * the disk.  -EEXIST: there is one of that name (also when it comes about
 * meanwhile); -EINVAL: no name for one; -ENOENT: no such volume; -EINTR; -EFBIG: over
 * PACK_MAX_FRAMES (job/pack.h); -EAGAIN: the way to the volume changed meanwhile; errors
 * of now_archive_make.
 */
must_check int kept_take(struct kept *kept, const char *volume, const char *name,
                         struct cancel *cancel, struct fail *why);

/* Keeps the archive in fd (any that tar/reader.h takes) as a snapshot, after checking all
 * of it as for a restore (tar/check.h, whose errors it has).  As kept_take else. */
must_check int kept_import(struct kept *kept, const char *volume, const char *name, int fd,
                           struct cancel *cancel, struct fail *why);

/* -ENOENT.  rename: -EEXIST, -EINVAL. */
must_check int kept_remove(struct kept *kept, const char *volume, const char *name,
                           struct fail *why);
must_check int kept_rename(struct kept *kept, const char *volume, const char *from, const char *to,
                           struct fail *why);

/* Its index has turned out to be damaged: it is removed, and made again when the
 * snapshot is opened next. */
void kept_drop_index(struct kept *kept, const char *volume, const char *name);

/*
 * Opens a snapshot to look into, a reference to the one that others have open if
 * there is such; makes its index first where there is no good one (which then takes
 * as long as reading it all).  -ENOENT; -EBADMSG: the archive is damaged, or was not made
 * by dvolfs; -EINTR; errors of the store, when an index has to be written.
 *
 * Some stay open for the next who asks, until they are removed or renamed here; of one
 * that another mount removes the disk has room again when others were opened, or this
 * ends.
 */
must_check int kept_open(struct kept *kept, const char *volume, const char *name,
                         struct cancel *cancel, struct snapshot **ret_snapshot, struct fail *why);

#endif
