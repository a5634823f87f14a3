/* SPDX-License-Identifier: MIT */
/*
 * Where an archive is cut into the frames that are compressed one by one: entries
 * in, boundaries in the uncompressed stream out.  Pure.
 *
 * Boundaries follow the names and sizes of what is near, not where in the archive
 * it stands, so that the next snapshot of a volume in which little changed has the
 * same frames but for those around the changes:
 *
 *   - An entry over FRAMES_GROUP_BYTES begins a frame, and is cut at fixed
 *     multiples of FRAMES_STEP_BYTES from the start of its data.
 *   - Smaller ones stay whole, in groups.  Where the next group begins is chosen by
 *     the least hash of a name among all the places that give the group an allowed
 *     size, about FRAMES_GROUP_BYTES on the average.  Two archives that differ
 *     somewhere have nearly the same places to choose from behind it, and so mostly
 *     make the same choice for the very next group, or for one soon after.
 *   - Fewer than FRAMES_MIN_BYTES of small entries after a large one go with its end.
 *
 * Groups are smaller than the steps of a large entry because a file that changes takes
 * the rest of its group with it: of 57,000 files in groups of 1 MiB 1 % are in half of
 * the groups, in those of a quarter of that in a fifth (measured).
 *
 * No frame has over FRAMES_MAX_BYTES, and none under FRAMES_MIN_BYTES but the first,
 * the last, and what an entry with headers over FRAMES_MIN_BYTES leaves beside them.
 *
 * Filled by one thread; once frames_finish has been called it is immutable and any
 * thread may read it.  Memory: about 24 bytes for each group and each large entry,
 * whatever its size; while it is filled some 100 KiB more.
 */
#ifndef DVOLFS_STORE_FRAMES_H
#define DVOLFS_STORE_FRAMES_H

#include "base/cleanup.h"

#include <stdint.h>

#define FRAMES_MIN_BYTES (64 * 1024)
#define FRAMES_GROUP_BYTES (256 * 1024)
#define FRAMES_STEP_BYTES (1024 * 1024)
#define FRAMES_MAX_BYTES (FRAMES_STEP_BYTES + 4 * FRAMES_MIN_BYTES)

struct frames;

must_check struct frames *frames_new(void);
void frames_free(struct frames *frames);
DEFINE_CLEANUP(cleanup_frames_impl, struct frames, frames_free)
#define cleanup_frames cleanup(cleanup_frames_impl)

/* The hash of an entry's path for frames_add; always the same for the same bytes. */
uint64_t frames_hash(const char *path, size_t bytes);

/*
 * Adds the next entry: slot_bytes in all, of which the first header_bytes (no more
 * than FRAMES_STEP_BYTES) come before its data.  -ENOMEM; -EOVERFLOW: over 2^63
 * bytes in all.  After an error the plan is good for frames_free alone.
 */
must_check int frames_add(struct frames *frames, uint64_t hash, uint64_t header_bytes,
                          uint64_t slot_bytes);

/* No more entries; end_bytes (no more than 64 KiB) follow the last one, in its frame.
 * Errors as frames_add. */
must_check int frames_finish(struct frames *frames, uint64_t end_bytes);

struct frames_frame {
    uint64_t index;
    uint64_t offset; /* in the uncompressed stream */
    uint64_t bytes;  /* never 0 */
};

uint64_t frames_count(const struct frames *frames);

/* The frame of an index below frames_count. */
void frames_frame(const struct frames *frames, uint64_t index, struct frames_frame *ret_frame);

/* The frame that holds the byte at offset: 1, or 0 where that is beyond the end. */
int frames_find(const struct frames *frames, uint64_t offset, struct frames_frame *ret_frame);

#endif
