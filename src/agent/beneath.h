/* SPDX-License-Identifier: MIT */
/*
 * Opening files below a directory that must not be left: no "..", no absolute
 * path, no symbolic link is ever followed, whatever others rename meanwhile.
 *
 * openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and
 * RESOLVE_NO_MAGICLINKS; where the kernel (before 5.6) or a seccomp filter
 * lacks it, one component after the other with O_NOFOLLOW.  Paths may be longer
 * than PATH_MAX: they are then taken in pieces.
 */
#ifndef DVOLFS_AGENT_BENEATH_H
#define DVOLFS_AGENT_BENEATH_H

#include "base/cleanup.h"

#include <stdbool.h>
#include <stdint.h>

/* Whether a path is one: "", or names with a '/' between them, none "." or "..". */
bool beneath_is_path(const char *path);

/*
 * Opens path ("" is root itself) with flags of open(2) plus O_CLOEXEC, O_NOFOLLOW
 * and O_NOCTTY; never creates.  The descriptor, or -ELOOP: a symbolic link is in
 * the way; -EXDEV: it is no path, or leads out; -errno.  With O_NONBLOCK -EAGAIN may mean no
 * more than that others rename (openat2(2)).
 */
must_check int beneath_open(int root, const char *path, int flags);

#endif
