/* SPDX-License-Identifier: MIT */
/*
 * POSIX ACLs as the kernel takes them, for tar/reader.c, and as text, for
 * tar/header.c.
 *
 * Format: linux/posix_acl_xattr.h, version 2, little endian; order and
 * completeness as fs/posix_acl.c posix_acl_valid() wants them.
 */
#ifndef DVOLFS_TAR_ACL_H
#define DVOLFS_TAR_ACL_H

#include "base/buf.h"
#include "base/fail.h"
#include "tar/entry.h"

#include <archive_entry.h>

#define TAR_ACL_ACCESS "system.posix_acl_access"
#define TAR_ACL_DEFAULT "system.posix_acl_default"

/*
 * Adds the attributes for the ACLs of `from` that say more than its mode to
 * entry, and sets the group bits of entry->mode to an access ACL's mask, where
 * the kernel keeps it.  Where entry has the attribute already, that is taken, in order.
 * -EILSEQ: no valid ACL, a default ACL of what is no directory, or a user or group told by
 * name only (which number it has in a container cannot be known here); -ENOMEM.
 */
must_check int tar_acl_convert(struct archive_entry *from, struct tar_entry *entry,
                               struct fail *why);

/*
 * Adds the text of an attribute's value as SCHILY.acl.* have it: "user::rwx,...",
 * users and groups by number (acl(5), star(5)).  -EINVAL: it is no ACL of
 * version 2; -ENOMEM, -EMSGSIZE.
 */
must_check int tar_acl_add_text(struct buf *out, const void *value, size_t value_bytes);

#endif
