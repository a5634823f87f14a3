/* SPDX-License-Identifier: MIT */
/* A temporary directory that is entered and left with a program's tests, and shell
 * commands in it. */
#ifndef DVOLFS_TEST_SCRATCH_H
#define DVOLFS_TEST_SCRATCH_H

#include "base/cleanup.h"
#include "check.h"

#include <mntent.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static char test_dir[] = "/tmp/dvolfs-test-XXXXXX";

/* A new one each time; 0 or -1, as cmocka wants it. */
static inline int enter_test_dir(unused_arg void **state)
{
    memcpy(test_dir + sizeof(test_dir) - 7, "XXXXXX", 6);
    return mkdtemp(test_dir) && chdir(test_dir) == 0 ? 0 : -1;
}

static inline int vshell(const char *format, va_list args)
{
    char *command = NULL;
    if (vasprintf(&command, format, args) < 0)
        return -1;
    int status = system(command);
    free(command);
    return status;
}

/* Runs a shell command; its status, as system(3). */
static inline printf_like(1, 2) int try_shell(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int status = vshell(format, args);
    va_end(args);
    return status;
}

/* The same where it must not fail. */
static inline printf_like(1, 2) void shell(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int status = vshell(format, args);
    va_end(args);
    if (status != 0)
        fail_msg("status %d: %s", status, format);
}

/*
 * A mount namespace that only this program sees, and that ends with it.  It has no copy of
 * mounts of dvolfs: one that is unmounted elsewhere would live on in it, and its daemon, which
 * other tests wait for, with it.
 */
static inline bool enter_own_mounts(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return false;
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *entry;
    while (mounts && (entry = getmntent(mounts)))
        if (strcmp(entry->mnt_type, "fuse.dvolfs") == 0)
            (void)umount2(entry->mnt_dir, MNT_DETACH | UMOUNT_NOFOLLOW);
    if (mounts)
        (void)endmntent(mounts);
    return true;
}

static inline int leave_test_dir(unused_arg void **state)
{
    return chdir("/") == 0 && try_shell("rm -rf %s", test_dir) == 0 ? 0 : -1;
}

#endif
