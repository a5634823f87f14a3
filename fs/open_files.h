/* SPDX-License-Identifier: MIT */
/*
 * The files and directories that the kernel has open.  It says of each that it is closed, but
 * not to the end: it does so without waiting for an answer, and what has not been taken by
 * the time of umount(2) is dropped (linux, fs/fuse/file.c, fuse_file_put; fs/fuse/dev.c,
 * fuse_abort_conn).  So those that are left are closed then.
 * Any thread may call.
 */
#ifndef DVOLFS_FS_OPEN_FILES_H
#define DVOLFS_FS_OPEN_FILES_H

#include "fs/node.h"

struct open_files;

struct open_file {
    struct node *node;
    struct handle *handle;
    _Atomic uint64_t dropped; /* of ops.c: so far the kernel was told to drop its pages */

    /* Its own: */
    void (*release)(struct node *node, struct handle *handle);
    struct open_file *next, *previous;
};

/* NULL: out of memory. */
must_check struct open_files *open_files_new(void);
/* Closes those that are left: nothing is done with them any more.  NULL is allowed. */
void open_files_free(struct open_files *files);

/* A file of the node, to which it takes a reference, and what release is to be called with;
 * handle may be NULL.  NULL: out of memory; the handle is the caller's still. */
must_check struct open_file *
open_files_add(struct open_files *files, struct node *node, struct handle *handle,
               void (*release)(struct node *node, struct handle *handle));

/* Releases it. */
void open_files_close(struct open_files *files, struct open_file *file);

#endif
