/* SPDX-License-Identifier: MIT */
/*
 * POSIX ACLs as the kernel takes them, for tar/reader.c.
 *
 * Format: linux/posix_acl_xattr.h, version 2, little endian; order and
 * completeness as fs/posix_acl.c posix_acl_valid() wants them.
 */
#ifndef DVOLFS_TAR_ACL_H
#define DVOLFS_TAR_ACL_H

#include "base/fail.h"
#include "tar/entry.h"

#include <archive_entry.h>

/*
 * Adds the attributes for the ACLs of `from` that say more than its mode to
 * entry, and sets the group bits of entry->mode to an access ACL's mask, where
 * the kernel keeps it.  -EILSEQ: no valid ACL, or a user or group told by name
 * only (which number it has in a container cannot be known here); -ENOMEM.
 */
must_check int tar_acl_convert(struct archive_entry *from, struct tar_entry *entry,
                               struct fail *why);

#endif
