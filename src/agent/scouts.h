/* SPDX-License-Identifier: MIT */
/*
 * Threads that list the directories a walk will come to next, while it is still
 * elsewhere: listing is waiting for the disk, or the work of another processor.
 *
 * One thread, the walk's, may call.
 */
#ifndef DVOLFS_AGENT_SCOUTS_H
#define DVOLFS_AGENT_SCOUTS_H

#include "agent/inspect.h"

/* Bytes of records that are ready, beyond which no other directory is begun. */
#define SCOUTS_MAX_READY_BYTES ((size_t)8 << 20)

struct scouts;

/* root stays the caller's and must stay open; flags as for listing_next; max_bytes of
 * one directory's records.  No thread is started yet.  NULL: -ENOMEM. */
must_check struct scouts *scouts_new(int root, unsigned flags, size_t max_bytes);
/* Ends the listings under way, each after the names it reads just now.  NULL is allowed. */
void scouts_free(struct scouts *scouts);
DEFINE_CLEANUP(cleanup_scouts_impl, struct scouts, scouts_free)
#define cleanup_scouts cleanup(cleanup_scouts_impl)

/*
 * Says that the directory at path will be entered.  Deeper ones come first, those of
 * the same depth in the order they are told.  No more than a hint: nothing happens
 * where there is no memory or no second processor.  Does not block.
 */
void scouts_expect(struct scouts *scouts, const char *path, unsigned depth);

/*
 * All records of the directory at path, as listing_open and listing_next give them:
 * 0 or their error.  Of one that was not expected they are read now.  Blocks on the
 * disk.
 */
must_check int scouts_list(struct scouts *scouts, const char *path, struct buf *records);

#endif
