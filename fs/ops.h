/* SPDX-License-Identifier: MIT */
/*
 * The front desk: takes the kernel's requests, asks the node, answers exactly
 * once.  Nothing else in the project replies to the kernel.
 */
#ifndef DVOLFS_FS_OPS_H
#define DVOLFS_FS_OPS_H

#include "base/workers.h"
#include "fs/inode.h"
#include "fs/open_files.h"
#include "fs/prefill.h"
#include "job/spool.h"

#include <fuse_lowlevel.h>

/* The session's user data; all must outlive the session. */
struct front {
    struct inode_table *inodes;
    struct open_files *open_files;
    struct prefills *prefills;
    struct fuse_session *session; /* once there is one */
    struct workers *workers;      /* for requests that may wait */
    struct spool *spool;          /* whose disk statfs(2) tells of */
    struct cancel *stop;          /* raised: requests that wait give up */
    bool others_may_enter;        /* allow_other */
    bool kernel_checks;           /* default_permissions: it asks for attributes at open */
};

extern const struct fuse_lowlevel_ops ops_table;

#endif
