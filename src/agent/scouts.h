/* SPDX-License-Identifier: MIT */
/*
 * Threads that list the directories a walk will come to next, while it is still
 * elsewhere: listing is waiting for the disk, or the work of another processor.  A large
 * directory is listed in pieces, by all of them, and all of it before the walk goes on
 * within it: up to 16 such have a descriptor open, and their names in memory.
 *
 * One thread, the walk's, may call.
 */
#ifndef DVOLFS_AGENT_SCOUTS_H
#define DVOLFS_AGENT_SCOUTS_H

#include "agent/inspect.h"

/* Bytes of what is ready, beyond which no other directory is begun; the pieces of a large one
 * are all listed once its names were read. */
#define SCOUTS_MAX_READY_BYTES ((size_t)8 << 20)
/* Of one directory's own, so many are known ahead. */
#define SCOUTS_MAX_TOLD 16

struct scouts;

/* root stays the caller's and must stay open; flags as for listing_next; max_bytes of
 * one directory's records.  No thread is started yet.  NULL: -ENOMEM. */
must_check struct scouts *scouts_new(int root, unsigned flags, size_t max_bytes);
/* Ends the listings under way, each after the names it reads just now.  NULL is allowed. */
void scouts_free(struct scouts *scouts);
DEFINE_CLEANUP(cleanup_scouts_impl, struct scouts, scouts_free)
#define cleanup_scouts cleanup(cleanup_scouts_impl)

/* Which of a directory's own directories the scouts know of. */
struct scouts_told {
    size_t position; /* in its records: those before it */
    unsigned count;  /* of them, how many the walk has not come to */
};

/*
 * Says that the walk, which is in the directory at path, will enter the directories among
 * its records that it was not told of, as long as there is room in told->count.  They are
 * of that depth; deeper ones come first.  No more than a hint: nothing happens where there
 * is no memory or no second processor.  Does not block.  Errors of file_read: the records
 * are not sound.
 */
must_check int scouts_tell(struct scouts *scouts, const char *path, unsigned depth,
                           const struct buf *records, struct scouts_told *told);

/*
 * The records of the directory at path, which is of that depth: all of them, or, of a large
 * one, those of its piece of that number; the pieces are to be asked for in turn.  1: there
 * is another piece; 0: there is none; or an error of listing_open and listing_next.  What nobody
 * told of is read now.  *ret_told: its own directories that are known already.  Blocks on the disk.
 */
must_check int scouts_list(struct scouts *scouts, const char *path, unsigned depth, unsigned piece,
                           struct buf *records, struct scouts_told *ret_told);

#endif
