/* SPDX-License-Identifier: MIT */
/* The mount itself: making it, serving it, ending it. */
#ifndef DVOLFS_FS_MOUNT_H
#define DVOLFS_FS_MOUNT_H

#include "base/fail.h"
#include "fs/ops.h"
#include "fs/option.h"

struct mount;

/*
 * The absolute path of the mountpoint, malloc'ed.  One that a dead dvolfs left
 * behind (ENOTCONN) is unmounted first.  -ENOTDIR, -ENOENT, ... with why.
 */
must_check int mount_prepare(const char *mountpoint, char **ret_path, struct fail *why);

/*
 * Mounts at path (of mount_prepare): as root by mount(2), else through
 * fusermount3(1).  front must outlive the mount.
 */
must_check int mount_open(const struct config *config, const char *path, struct front *front,
                          struct mount **ret_mount, struct fail *why);

/*
 * Serves requests until it is unmounted, or SIGINT, SIGTERM or SIGHUP comes.
 * When it returns, requests may still be under way in the front's workers.
 */
void mount_serve(struct mount *mount);

/* Unmounts, where that is not done, and frees.  NULL is allowed. */
void mount_close(struct mount *mount);

#endif
