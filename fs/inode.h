/* SPDX-License-Identifier: MIT */
/*
 * The nodes the kernel knows, by inode number, each with the count of lookups
 * that the kernel has been told of and has not forgotten (fuse_lowlevel.h,
 * lookup and forget).  Inode numbers are the nodes' own: the same thing has the
 * same number, a thing that must not share the kernel's caches has another.
 * Any thread may call.
 */
#ifndef DVOLFS_FS_INODE_H
#define DVOLFS_FS_INODE_H

#include "fs/node.h"

struct inode_table;

/* With the root (number 1) in it, which is never forgotten; takes its
 * reference, also on failure.  NULL: out of memory. */
must_check struct inode_table *inode_table_new(struct node *root);

/* Drops all nodes.  NULL is allowed. */
void inode_table_free(struct inode_table *table);

/*
 * Counts one lookup of the node, whose reference it takes, and returns a new
 * reference to the node under that number: an equal one that was there before
 * wins.  NULL: out of memory.
 */
must_check struct node *inode_table_lookup(struct inode_table *table, struct node *node);

/* The node under the number, a new reference; NULL: the kernel knows none such. */
must_check struct node *inode_table_get(struct inode_table *table, uint64_t ino);

/* Takes back `lookups` lookups. */
void inode_table_forget(struct inode_table *table, uint64_t ino, uint64_t lookups);

#endif
