/* SPDX-License-Identifier: MIT */
/*
 * A whole tree, depth first, each directory's names sorted by their bytes, the
 * root first: the order in which an archive has them.
 *
 * Memory: the records of the directories between the root and where the walk
 * is, and of those that it will come to next (agent/scouts.h).  One descriptor for
 * each thread, whatever the depth, and those of large directories (there, too).
 */
#ifndef DVOLFS_AGENT_WALK_H
#define DVOLFS_AGENT_WALK_H

#include "agent/inspect.h"

struct walk;

/* flags as for inspect_file; root stays the caller's and must stay open.  NULL: -ENOMEM. */
must_check struct walk *walk_new(int root, unsigned flags);
void walk_free(struct walk *walk);
DEFINE_CLEANUP(cleanup_walk_impl, struct walk, walk_free)
#define cleanup_walk cleanup(cleanup_walk_impl)

/*
 * The next file, its name being the path from the root (which is ""): 1, valid until the
 * next call, or 0 when there are no more.  What goes meanwhile is passed over; a directory
 * that may not be read, or anything else that cannot be told, is an error (-errno): an
 * archive must not silently lack it.
 */
must_check int walk_step(struct walk *walk, struct file *ret_file);

/* Adds the records of the next ones, until more than about max_bytes are there: 1, or 0
 * when there are no more.  Errors as walk_step; -ENOMEM, -EMSGSIZE of out. */
must_check int walk_next(struct walk *walk, size_t max_bytes, struct buf *out);

/* Where it is, or what it failed at.  Valid until the next call. */
const char *walk_path(const struct walk *walk);

#endif
