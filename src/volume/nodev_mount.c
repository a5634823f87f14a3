/* SPDX-License-Identifier: MIT */
#include "volume/nodev_mount.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>

int nodev_mount_of(int dir)
{
    /* As a system call: glibc has them since 2.36 only. */
    long tree =
        syscall(SYS_open_tree, dir, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    cleanup_close int fd = (int)tree;
    const struct mount_attr attr = {.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY |
                                                MOUNT_ATTR_NOSYMFOLLOW};
    if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return -errno;
    int root = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0 ? -errno : root;
}

struct errand {
    int dir;
    int namespace;
    int result;
};

/* In a thread of its own, which ends with it: it stays in that namespace (setns(2)). */
static void *run_errand(void *data)
{
    struct errand *errand = data;
    errand->result = unshare(CLONE_FS) < 0 || setns(errand->namespace, CLONE_NEWNS) < 0
                         ? -errno
                         : nodev_mount_of(errand->dir);
    return NULL;
}

int nodev_mount_within(int dir, pid_t process)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)process);
    cleanup_close int namespace = open(path, O_RDONLY | O_CLOEXEC);
    struct errand errand = {.dir = dir, .namespace = namespace};
    pthread_t thread;
    if (namespace < 0)
        return -errno;
    int err = pthread_create(&thread, NULL, run_errand, &errand);
    if (err != 0)
        return -err;
    (void)pthread_join(thread, NULL);
    return errand.result;
}
