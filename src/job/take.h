/* SPDX-License-Identifier: MIT */
/*
 * One kept snapshot, made of what is in a volume now.
 *
 * By way of its files, groups of them that did not change since the volume's newest
 * snapshot are neither read nor compressed again: their frames are taken over
 * (store/frames.h says what a group is).  The result is byte for byte what it would be
 * without an earlier one.
 *
 * A file did not change where it is the same one (file_identity), of the same size and
 * the same ctime, to the nanosecond: no program can set that.  It would not do where a
 * store leaves the ctime alone, and that can be in three cases, in which the frame is
 * not offered to the next snapshot:
 *   - The file changed shortly before it was read: within the same tick of the clock, or
 *     by a write that was still under way (its ctime is from when it began).  Hence
 *     TAKE_RECENT_MS; and longer writes into large files are waited for.
 *   - A mapped page that is dirty already is stored to.  Hence the volume is written to
 *     the disk first (contents_sync), and ctimes are compared with the time of that.
 *   - The ctime is in the future: a clock was set back.
 * What remains is a clock that is set back to the very tick in which a file changed.
 */
#ifndef DVOLFS_JOB_TAKE_H
#define DVOLFS_JOB_TAKE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "job/jobs.h"
#include "job/now_archive.h"
#include "store/snapshot.h"
#include "store/store.h"
#include "volume/contents.h"

/* Long enough for a write that the disk has (O_DIRECT, aio) to be done. */
#define TAKE_RECENT_MS 2000

struct take_conf {
    struct store *store;
    struct snapshot_cache *cache; /* of the store's snapshots */
    struct log *log;              /* may be NULL */
    const char *volume;
    const char *name;
    const char *consistency; /* see index_about */
    int64_t taken_s;         /* when the volume was as it is in the snapshot */
    int level;
    struct job *job; /* begun; is told what is done */
};

/* What was spared. */
struct take_result {
    uint64_t bytes;        /* of the file */
    uint64_t shared_bytes; /* of them, blocks that the earlier one has too */
    uint64_t frames;
    uint64_t taken_frames;
    uint64_t read_bytes; /* uncompressed */
};

/* -EEXIST: there is a snapshot of that name. */
must_check int take_check_absent(const struct take_conf *conf, struct fail *why);

/* -EEXIST, -ENOSPC, -EINTR, errors of the contents, with why.  Blocks; cancel is heeded
 * until the snapshot is complete. */
must_check int take_contents(const struct take_conf *conf, struct contents *contents,
                             struct cancel *cancel, struct take_result *ret_result,
                             struct fail *why);

/* The same of a complete plain tar in a file; nothing is taken over.  Also -EBADMSG:
 * it makes no tree (job/members.h). */
must_check int take_tar(const struct take_conf *conf, int fd, struct cancel *cancel,
                        struct take_result *ret_result, struct fail *why);

#endif
