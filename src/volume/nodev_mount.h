/* SPDX-License-Identifier: MIT */
/*
 * A directory in a mount of its own, through which no device can be opened and no symbolic
 * link is followed (mount(8), nodev and nosymfollow): opening a device may do something,
 * tapes rewind, watchdogs bite, and a link may lead anywhere.
 */
#ifndef DVOLFS_VOLUME_NODEV_MOUNT_H
#define DVOLFS_VOLUME_NODEV_MOUNT_H

#include "base/cleanup.h"

#include <sys/types.h>

/*
 * Opens dir anew, for reading, in a mount that is attached nowhere and goes with the last
 * descriptor of what is in it.  It is read-only too, and has nothing of what is mounted
 * below dir.  The descriptor; -EPERM: it takes CAP_SYS_ADMIN; -EINVAL: dir is of another
 * mount namespace, or the kernel (before 5.14) cannot; -ENOSYS: nor can one before 5.12;
 * -errno of open_tree(2) and mount_setattr(2).
 */
must_check int nodev_mount_of(int dir);

/* The same of a dir in the mount namespace of another process.  Errors also of setns(2), which
 * takes CAP_SYS_CHROOT too; -EAGAIN: no thread could be started. */
must_check int nodev_mount_within(int dir, pid_t process);

#endif
