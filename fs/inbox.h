/* SPDX-License-Identifier: MIT */
/*
 * What was dropped into the restore/ directory of a volume, and became of it.
 *
 * A file here is one of
 *   pending   its contents are what was written so far
 *   told      its contents are the receipt of the last attempt
 * and becomes told when a close, fsync or rename tried to restore it, pending
 * again when more is written.  The written data is kept until the last writer
 * has closed, because one that was not complete at the close of one descriptor
 * may be so at that of the next (`(cat a; cat b) > x.tar`).
 *
 * Locks: an inbox's guards its list of files and their names, a file's its
 * state; in that order.  Neither is held while a restore runs: `restoring` keeps
 * writers out meanwhile (EBUSY) and makes a second close wait.
 *
 * Shared by inbox.c (the files) and node_restore.c (the directory).
 */
#ifndef DVOLFS_FS_INBOX_H
#define DVOLFS_FS_INBOX_H

#include "fs/tree.h"
#include "job/restore.h"

struct inbox_file {
    struct node node;
    struct inbox *inbox;
    struct inbox_file *next; /* in the inbox's list */
    char *name;              /* under the inbox's lock */

    pthread_mutex_t lock;
    pthread_cond_t restored; /* restoring became false */
    bool restoring;
    int fd; /* the written data; -1: none */
    uint64_t bytes;
    bool changed;    /* written to since the last attempt */
    int write_error; /* of an earlier write: the data is not complete */
    int result;      /* of the last attempt */
    unsigned writers;
    char *receipt; /* NULL: pending */
    mode_t mode;
    struct timespec mtime;
};

/* The restore/ of one volume; lives as long as the mount. */
struct inbox {
    struct tree *tree;
    struct inbox *next;
    char *volume;
    struct turn turn; /* of restores of this volume: one at a time */
    pthread_mutex_t lock;
    struct inbox_file *files;
};

/* The inbox of the volume, made where there is none, and alive as long as the
 * mount; NULL without memory. */
must_check struct inbox *inbox_of(struct tree *tree, const char *volume);

/* With the inbox's lock: where the file of that name hangs, or NULL there. */
struct inbox_file **inbox_find(struct inbox *inbox, const char *name);

/* A file of that name, mode without type, in no list yet; one reference.  NULL
 * without memory. */
must_check struct inbox_file *inbox_file_new(struct inbox *inbox, const char *name, mode_t mode);

/* node_ops.open of a file. */
must_check int inbox_file_open(struct node *node, const struct request *request, int flags,
                               struct opened *ret_opened);
/* node_ops.release of a file. */
void inbox_file_release(struct node *node, struct handle *handle);

/*
 * Restores what is pending, if it changed since the last attempt; the result of
 * the last attempt otherwise.  name is that of the archive, for people.
 * *ret_receipt is set after an attempt: malloc'ed, or NULL without memory.
 * Blocks, as restore_run; -EINTR.
 */
must_check int inbox_file_restore(struct inbox_file *file, const char *name,
                                  const struct request *request, char **ret_receipt);

/* Makes the receipt (taken; may be NULL) the file's contents, unless it was
 * written to again meanwhile. */
void inbox_file_tell(struct inbox_file *file, char *receipt);

#endif
