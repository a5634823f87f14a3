/* SPDX-License-Identifier: MIT */
/*
 * Frames of an earlier snapshot of a volume, found by what they were made of.
 */
#ifndef DVOLFS_JOB_EARLIER_H
#define DVOLFS_JOB_EARLIER_H

#include "store/frames.h"
#include "store/index.h"
#include "store/seekable.h"
#include "store/snapshot.h"
#include "store/store.h"

/* A hash over everything that makes a frame's bytes. */
struct frame_key {
    uint64_t low;
    uint64_t high;
};

/* A hash of a frame as it is stored, compressed. */
uint64_t frame_stored_hash(const void *data, size_t bytes);

/*
 * What an index has as the key of frame `number` (not counting frames with nothing in
 * them): half of the key, and a hash that binds it to the frame as the archive's own
 * table has it, and to its stored bytes (frame_stored_hash).  So a damaged index names no
 * frame for another, and a frame that was damaged since is not found.
 */
void frame_key_pack(struct frame_key key, uint64_t number, const struct seekable_frame *frame,
                    uint64_t stored, uint8_t ret_packed[INDEX_KEY_BYTES]);

struct earlier;

/* The volume's newest snapshot, if it can be used: 0, and NULL where there is none.  -ENOMEM. */
must_check int earlier_open(struct store *store, const char *volume, struct snapshot_cache *cache,
                            struct earlier **ret_earlier, struct fail *why);
void earlier_close(struct earlier *earlier);
DEFINE_CLEANUP(cleanup_earlier_impl, struct earlier, earlier_close)
#define cleanup_earlier cleanup(cleanup_earlier_impl)

/* Its frame of that key which holds so many bytes: where in its table it is; -1: it has
 * none.  By the index alone: whether the archive still has it is for earlier_read. */
int64_t earlier_find(const struct earlier *earlier, struct frame_key key, uint64_t bytes);

/*
 * Reads the frame of that key, at a place of earlier_find's, as it is stored: 0 with its bytes
 * (file_bytes of them; valid until the next call) and their hash.  -EBADMSG: they, or the
 * padding before them, are not what was written, or cannot be read; -ENOMEM.  One thread at a time.
 * Blocks on the disk.
 */
must_check int earlier_read(struct earlier *earlier, struct frame_key key, size_t place,
                            const void **ret_data, uint64_t *ret_stored);

/* Where in its table frame `number` is, not counting those with nothing in them; -1: it has
 * not so many. */
int64_t earlier_place(const struct earlier *earlier, uint64_t number);

/* Its name. */
const char *earlier_name(const struct earlier *earlier);
const struct seekable *earlier_seekable(const struct earlier *earlier);
struct snapshot *earlier_snapshot(const struct earlier *earlier);
int earlier_fd(const struct earlier *earlier);

#endif
