/* SPDX-License-Identifier: MIT */
/*
 * One request of the kernel on its way through the front desk; shared by the
 * files that answer requests (ops*.c), and nobody else's business.
 *
 * Each request becomes a `struct call`.  One that cannot wait runs at once, on
 * the stack of the session's thread; one that may goes to a worker with a copy
 * on the heap and a cancel, which the kernel's interrupt (a signal to the
 * asking process) or the end of the mount raises.
 */
#ifndef DVOLFS_FS_OPS_CALL_H
#define DVOLFS_FS_OPS_CALL_H

#include "fs/ops.h"

struct call {
    fuse_req_t req;
    struct front *front;
    struct node *node;
    struct request request;
    struct cancel_hook stop_hook;
    void (*run)(struct call *call);

    struct fuse_file_info fi;
    size_t size;
    off_t offset;
    fuse_ino_t to_ino; /* of a copy within the mount: where it goes */
    off_t to_offset;
    struct fuse_file_info to_fi;
    char *name;
    char *new_name;
    unsigned flags;
};

/* Fills *call; false, and answered with ESTALE, where the kernel's number is
 * none we know.  run answers the request, exactly once. */
bool call_init(struct call *call, fuse_req_t req, fuse_ino_t ino, void (*run)(struct call *call));

/* Releases what the call holds; not to be called after call_dispatch. */
void call_done(struct call *call);

/* Runs call->run, here or in a worker, and then releases what it holds. */
void call_dispatch(struct call *call, unsigned operation);

/* The same, always in a worker. */
void call_dispatch_waiting(struct call *call);

/* To be called before any reply but call_fail: after it the request is libfuse's,
 * and a late interrupt must not find our cancel. */
void call_quiet(struct call *call);

/* Answers with -r; 0 is success without more to say. */
void call_fail(struct call *call, int r);

/*
 * The answer to a name: counts one lookup of the child, whose reference it
 * takes.  To be taken back with inode_table_forget where the answer does not
 * reach the kernel.  -ENOMEM, errors of getattr: nothing is counted.
 */
int call_entry(struct call *call, struct node *child, double name_seconds,
               struct fuse_entry_param *ret_entry);

/* Of a request about an open file or directory. */
static inline struct open_file *open_file_of(const struct fuse_file_info *fi)
{
    return (struct open_file *)(uintptr_t)fi->fh;
}

/* The directory operations, in ops_dir.c. */
void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                 struct fuse_file_info *fi);
void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                     struct fuse_file_info *fi);
void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

#endif
