/* SPDX-License-Identifier: MIT */
/*
 * Putting an archive into a volume: check everything, then apply.
 *
 * In this order, and nothing is changed before the last step:
 *   1. the archive is read from end to end (tar/check.h)
 *   2. no running container may be writing to the volume
 *   3. there is room on the engine's disk, where that can be seen
 *   4. what is in the volume can be unpacked over
 *   5. the engine unpacks it
 */
#ifndef DVOLFS_JOB_RESTORE_H
#define DVOLFS_JOB_RESTORE_H

#include "base/buf.h"
#include "base/cancel.h"
#include "base/fail.h"
#include "base/turn.h"
#include "job/jobs.h"
#include "volume/volumes.h"

#include <stdbool.h>

struct restore_request {
    const char *volume;
    const char *name;  /* of the archive, for the receipt */
    int fd;            /* the archive; not closed */
    struct turn *turn; /* of the volume: its restores follow one another */
    struct jobs *jobs; /* where it is seen while it runs; may be NULL */
};

/*
 * Restores, and puts a receipt for people to read into *receipt (initialised,
 * empty), whether it succeeds or not; it is best effort where memory is short.
 *
 * Blocks.  cancel is heeded until step 5 begins: half an archive would be the
 * worst of outcomes.  Results:
 *   0
 *   -EBUSY   the volume is in use
 *   -EILSEQ, -EINVAL  not a sound archive
 *   -EPERM   a member that would leave the volume
 *   -EISDIR, -ENOTDIR  it does not fit what is there: see tar_check_against
 *   -ENOSPC  no room
 *   -EHOSTDOWN, -ETIMEDOUT  no engine, or one that does not answer
 *   -EINTR   cancelled
 *   -ENOENT  the volume has gone
 */
must_check int restore_run(struct volumes *volumes, const struct restore_request *request,
                           struct cancel *cancel, struct buf *receipt, struct fail *why);

/* Whether a name says that the file is an archive to restore: x.tar, x.tar.gz,
 * x.tgz, x.tar.zst, x.tzst, x.tar.xz, x.txz, x.tar.bz2, x.tbz2; not a dot file. */
bool restore_is_archive_name(const char *name);

/*
 * Whether a name is one under which tools write what they rename later: dot
 * files (rsync, gio), *~, *.part, *.partial, *.tmp, *.filepart, *.crdownload.
 */
bool restore_is_temporary_name(const char *name);

#endif
