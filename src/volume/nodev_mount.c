/* SPDX-License-Identifier: MIT */
#include "volume/nodev_mount.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>

int nodev_mount_of(int dir)
{
    /* As a system call: glibc has them since 2.36 only. */
    long tree =
        syscall(SYS_open_tree, dir, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    cleanup_close int fd = (int)tree;
    const struct mount_attr attr = {.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY};
    if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return -errno;
    int root = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0 ? -errno : root;
}
