/* SPDX-License-Identifier: MIT */
/*
 * Decompressed frames of snapshots, kept up to a bound, the one that was not wanted for
 * the longest time going first.  A frame that several want is loaded by the first, and
 * the others wait; a load that failed is not kept.  Any thread may call.
 */
#ifndef DVOLFS_STORE_SNAPSHOT_CACHE_H
#define DVOLFS_STORE_SNAPSHOT_CACHE_H

#include "base/cleanup.h"

#include <stdint.h>

struct snapshot_cache;

/* Keeps up to max_bytes of frames; one that is in use stays beyond it.  NULL: -ENOMEM. */
must_check struct snapshot_cache *snapshot_cache_new(size_t max_bytes);
/* Nothing may be in use.  NULL is allowed. */
void snapshot_cache_free(struct snapshot_cache *cache);

/* A number that no other owner of frames has. */
uint64_t snapshot_cache_owner(struct snapshot_cache *cache);

/* Drops an owner's frames, of which none is in use. */
void snapshot_cache_forget(struct snapshot_cache *cache, uint64_t owner);

/* A frame in use; filled in by snapshot_cache_get. */
struct snapshot_frame;

/*
 * The frame of that number, loaded into `bytes` of memory by load, with no lock held,
 * where it is not there: 0, and it is in use until snapshot_cache_put.  -ENOMEM, and
 * what load returns.
 */
must_check int snapshot_cache_get(struct snapshot_cache *cache, uint64_t owner, uint64_t number,
                                  size_t bytes, int (*load)(void *data, void *memory), void *data,
                                  struct snapshot_frame **ret_frame);
void snapshot_cache_put(struct snapshot_cache *cache, struct snapshot_frame *frame);

const void *snapshot_frame_data(const struct snapshot_frame *frame);

/* What all frames take now. */
size_t snapshot_cache_bytes(struct snapshot_cache *cache);

#endif
