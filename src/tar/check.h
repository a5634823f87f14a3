/* SPDX-License-Identifier: MIT */
/*
 * Whether an archive may be unpacked over a volume: read once from end to end
 * before a single byte of it is applied.
 *
 * Refused:
 *   -EILSEQ  damaged, cut short, not an archive (see tar/reader.h)
 *   -EPERM   a member or hard link that leads out: an absolute name, "..", a
 *            member below a name that the archive makes a symlink
 *   -EINVAL  no member at all; a member below one that is not a directory; a
 *            hard link to a name that no earlier member made, or to a
 *            directory; a member type that is none of file, directory,
 *            symlink, device, fifo; a root that is not a directory; a name
 *            component over 255 bytes, a path over TAR_CHECK_PATH_MAX, more
 *            names than TAR_CHECK_NAMES_MAX; an attribute that no file can
 *            have (tar/attribute.h), too many default ACLs (tar/default_acls.h)
 *   -ENOSPC  its files need more than max_data_bytes
 *   -EINTR   cancelled
 * The sentence names the member.
 *
 * The same name twice is allowed, as for tar: the later one counts.
 *
 * The result remembers the tree of names, about 100 bytes and the name for each
 * member, so that what is in the volume can be compared with it afterwards.
 */
#ifndef DVOLFS_TAR_CHECK_H
#define DVOLFS_TAR_CHECK_H

#include "base/cancel.h"
#include "base/fail.h"
#include "tar/entry.h"

#include <stdbool.h>

/* Linux resolves paths up to 4096 bytes; the engine puts the volume's own path before ours. */
#define TAR_CHECK_PATH_MAX 3800
/* About 2.5 GB of memory. */
#define TAR_CHECK_NAMES_MAX 20000000

struct tar_check;

/* Blocks on disk and processor for the whole archive.  fd as for tar_reader_open. */
must_check int tar_check_run(int fd, uint64_t max_data_bytes, struct cancel *cancel,
                             struct tar_check **ret_check, struct fail *why);
void tar_check_free(struct tar_check *check);
DEFINE_CLEANUP(cleanup_tar_check_impl, struct tar_check, tar_check_free)
#define cleanup_tar_check cleanup(cleanup_tar_check_impl)

/* How many members, and the bytes of all regular files' data as they will be
 * written by someone who writes holes out too. */
uint64_t tar_check_members(const struct tar_check *check);
uint64_t tar_check_data_bytes(const struct tar_check *check);

/* How many attributes no file on Linux has: whoever converts it leaves them out. */
uint64_t tar_check_left_out(const struct tar_check *check);

/* Whether the root's own entry ("./") is in the archive. */
bool tar_check_has_root(const struct tar_check *check);

/*
 * Whether unpacking over an existing file would go wrong.  To be called for
 * every file that is in the volume (name as in tar_entry, mode with type):
 *   -EISDIR   it lies below a name that the archive makes something else than a
 *             directory: a directory with contents would be lost
 *   -EPERM    it is a symlink, and the archive has members below its name
 *             without a directory entry for it: they would go through it
 *   -ENOTDIR  the same for any other file that is not a directory
 *   0         fine
 */
must_check int tar_check_against(const struct tar_check *check, const char *name, mode_t mode,
                                 struct fail *why);

#endif
