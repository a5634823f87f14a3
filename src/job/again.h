/* SPDX-License-Identifier: MIT */
/*
 * A snapshot of a volume that is, to the byte, what it was when the earlier one was
 * taken: a copy of that, as a whole.
 */
#ifndef DVOLFS_JOB_AGAIN_H
#define DVOLFS_JOB_AGAIN_H

#include "job/pack.h"

/* Whether all of the archive would be taken over, frame by frame in the same order: then
 * the two are the same, because where frames stand depends on nothing but their sizes. */
bool again_is_same(const struct pack *pack);

/*
 * As pack_run for such a one.  Blocks of the file are shared where they can be (XFS,
 * btrfs), else copied; each frame is looked at on the way.  The hash is the earlier one's
 * own: damage since then does not become sound by this.
 *
 * -EBADMSG: the earlier one is shorter than its index says, damaged, or cannot be read;
 * -EINTR; -ENOMEM; errors of pwrite(2).  Blocks.
 */
must_check int again_run(const struct pack *pack, struct pack_result *ret_result, struct fail *why);

#endif
