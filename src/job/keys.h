/* SPDX-License-Identifier: MIT */
/*
 * What makes a frame's bytes, as one hash: the exact headers of the entries in it, which
 * part of each it has, of those with data which file it was as of which ctime, how
 * it is compressed, and how the file is laid out.  Pure.
 */
#ifndef DVOLFS_JOB_KEYS_H
#define DVOLFS_JOB_KEYS_H

#include "agent/file.h"
#include "job/earlier.h"
#include "tar/layout.h"

struct keys;

/* moment: a file whose ctime is not before it may change again without a new one.  level and
 * block_bytes as of struct pack.  NULL: out of memory. */
must_check struct keys *keys_new(const struct layout *layout, struct file_time moment, int level,
                                 unsigned block_bytes);
void keys_free(struct keys *keys);
DEFINE_CLEANUP(cleanup_keys_impl, struct keys, keys_free)
#define cleanup_keys cleanup(cleanup_keys_impl)

/* 1 and the frame's key, or 0: it may have none.  -ENOMEM, -EMSGSIZE. */
must_check int keys_of(struct keys *keys, const struct frames_frame *frame,
                       struct frame_key *ret_key);

#endif
