/* SPDX-License-Identifier: MIT */
/*
 * One member of an archive, or one file to become a member: the common coin
 * between whoever lists files and whoever reads or writes archives.
 */
#ifndef DVOLFS_TAR_ENTRY_H
#define DVOLFS_TAR_ENTRY_H

#include "base/cleanup.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* An extended attribute; the value is bytes, not a string. */
struct tar_xattr {
    char *name;
    void *value;
    size_t value_bytes;
};

/* A run of data in a sparse file; what lies between runs is a hole. */
struct tar_extent {
    uint64_t offset;
    uint64_t bytes;
};

/*
 * Names are bytes as the file system has them: no encoding, no NUL, no leading
 * or trailing '/'.  The root of the tree is "".
 */
struct tar_entry {
    char *name;
    char *link_target; /* of a symlink; of a hard link: the name of the member linked to */
    mode_t mode; /* type (S_IFMT) and permission bits; tar tells no type of a hard link: S_IFREG */
    int is_hard_link;
    uint64_t uid;
    uint64_t gid;
    int64_t mtime_s; /* seconds since 1970, negative before */
    uint32_t mtime_ns;
    uint64_t size_bytes; /* of a regular file, holes included; else 0 */
    uint32_t dev_major;
    uint32_t dev_minor;
    struct tar_xattr *xattrs;
    size_t xattr_count;
    struct tar_extent *extents; /* NULL: the file is all data */
    size_t extent_count;
};

/* Frees what the entry owns and makes it all zero.  NULL is allowed. */
void tar_entry_done(struct tar_entry *entry);
#define cleanup_tar_entry cleanup(tar_entry_done)

/* Adds a copy of an attribute, in place of one of the same name.  -ENOMEM. */
must_check int tar_entry_add_xattr(struct tar_entry *entry, const char *name, const void *value,
                                   size_t value_bytes);

/* The attribute of that name, the entry's own; NULL: there is none. */
const struct tar_xattr *tar_entry_find_xattr(const struct tar_entry *entry, const char *name);

/*
 * Turns a name as archives have it into one as above, in place: "." components,
 * doubled and trailing '/' are dropped; a leading '/' and ".." stay.
 */
void tar_entry_clean_name(char *name);

#endif
