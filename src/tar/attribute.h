/* SPDX-License-Identifier: MIT */
/*
 * Which of the attributes that an archive has the kernel will take.  Whoever unpacks may end
 * at the first that it does not: moby's createTarFile ignores EPERM, but in newer versions
 * not ENOTSUP, and never EINVAL or E2BIG.
 */
#ifndef DVOLFS_TAR_ATTRIBUTE_H
#define DVOLFS_TAR_ATTRIBUTE_H

#include "tar/entry.h"

enum attribute_kind {
    ATTRIBUTE_FINE,
    ATTRIBUTE_FOREIGN,    /* of another system, or a file that has none: can be left out */
    ATTRIBUTE_IMPOSSIBLE, /* of a kind that Linux has, but no file can have this one */
};

enum attribute_kind attribute_kind(const struct tar_entry *entry, const struct tar_xattr *xattr);

/* Removes the foreign ones: how many. */
size_t attribute_remove_foreign(struct tar_entry *entry);

#endif
