/* SPDX-License-Identifier: MIT */
/*
 * What was dropped into a directory of a volume, and became of it: an inbox.  What
 * it is for (restoring, keeping) is its purpose's business, see below.
 *
 * A file here is one of
 *   pending   its contents are what was written so far
 *   told      its contents are the receipt of the last attempt
 * and becomes told when a close, fsync or rename tried to use it, pending
 * again when more is written.  The written data is kept until the last writer
 * has closed, because one that was not complete at the close of one descriptor
 * may be so at that of the next (`(cat a; cat b) > x.tar`).
 *
 * Locks: an inbox's guards its list of files and their names, a file's its
 * state; in that order.  Neither is held during an attempt: `trying` keeps
 * writers out meanwhile (EBUSY) and makes a second close wait.
 */
#ifndef DVOLFS_FS_INBOX_H
#define DVOLFS_FS_INBOX_H

#include "base/turn.h"
#include "fs/tree.h"

struct inbox_file;

struct inbox_purpose {
    const char *place;                       /* the directory's name, for the log */
    bool (*is_final_name)(const char *name); /* of what is used when it is complete */
    const char *wanted;                      /* for the log: what such names are like */
    /* Uses the file's contents under the final name; see inbox_file_try. */
    int (*attempt)(struct inbox_file *file, const char *name, const struct request *request,
                   struct buf *receipt, struct fail *why);
    const char *verb;    /* for the log: "restored" */
    bool tells_success;  /* attempt has put it into the log */
    bool leaves_receipt; /* what was tried stays, to be read; else it goes */
    /* The flags of open(2) by one of which a file is opened that is to be filled: without,
     * its final name asks for something by itself.  0: all are to be filled. */
    int filling;
};

struct inbox_file {
    struct node node;
    struct inbox *inbox;
    struct inbox_file *next; /* in the inbox's list */
    char *name;              /* under the inbox's lock */

    _Atomic int64_t busy_told_s; /* when the log was last told of a refusal */

    pthread_mutex_t lock;
    pthread_cond_t tried; /* trying became false */
    bool trying;
    int fd; /* the written data; -1: none */
    uint64_t bytes;
    bool changed;     /* written to since the last attempt */
    int write_error;  /* of an earlier write: the data is not complete */
    int result;       /* of the last attempt */
    bool is_unfilled; /* and was closed so, by a shell that redirects, or for good */
    unsigned writers;
    char *receipt; /* NULL: pending */
    mode_t mode;
    int flags; /* of open(2), when it was made */
    struct timespec mtime;
};

/* One directory of one volume; lives as long as the mount. */
struct inbox {
    struct tree *tree;
    const struct inbox_purpose *purpose;
    struct inbox *next;
    char *volume;
    struct turn turn; /* for attempts that must follow one another */
    pthread_mutex_t lock;
    struct inbox_file *files;
};

/* The inbox of the volume for that purpose, made where there is none, and alive as
 * long as the mount; NULL without memory. */
must_check struct inbox *inbox_of(struct tree *tree, const char *volume,
                                  const struct inbox_purpose *purpose);

/* With the inbox's lock: where the file of that name hangs, or NULL there. */
struct inbox_file **inbox_find(struct inbox *inbox, const char *name);

/* A file of that name, mode without type, in no list yet; one reference.  NULL
 * without memory. */
must_check struct inbox_file *inbox_file_new(struct inbox *inbox, const char *name, int flags,
                                             mode_t mode);

/* node_ops.open of a file. */
must_check int inbox_file_open(struct node *node, const struct request *request, int flags,
                               struct opened *ret_opened);
/* node_ops.release of a file. */
void inbox_file_release(struct node *node, struct handle *handle);

/*
 * Tries what is pending, if it changed since the last attempt; the result of
 * the last attempt otherwise.  name is that of the archive, for people.
 * *ret_receipt is set after an attempt: malloc'ed, or NULL without memory.
 * Blocks, as the purpose's attempt; -EINTR.
 */
must_check int inbox_file_try(struct inbox_file *file, const char *name,
                              const struct request *request, char **ret_receipt);

/* Makes the receipt (taken; may be NULL) the file's contents, unless it was
 * written to again meanwhile. */
void inbox_file_tell(struct inbox_file *file, char *receipt);

/* ---- the directory (inbox_dir.c): for node_ops of the same names ------------------- */

/* -ENOENT. */
must_check int inbox_dir_lookup(struct inbox *inbox, const char *name, struct node **ret_child);
must_check int inbox_dir_list(struct inbox *inbox, node_emit_fn *emit, void *data);
/* -EINVAL: neither a final name nor one under which tools write what they rename. */
must_check int inbox_dir_create(struct inbox *inbox, const char *name, int flags, mode_t mode,
                                struct node **ret_child, struct opened *ret_opened);
must_check int inbox_dir_unlink(struct inbox *inbox, const char *name);
must_check int inbox_dir_rename(struct inbox *inbox, const struct request *request,
                                const char *from, const char *to, bool no_replace);
void inbox_dir_tell_refused(const struct inbox *inbox, const char *name);

#endif
