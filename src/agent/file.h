/* SPDX-License-Identifier: MIT */
/*
 * What a directory entry is, in one flat record: made where the files are, and
 * read wherever it has come to, by memory or by wire.
 *
 * A record is a fixed head, the name, the link target, the attributes and the
 * extents, padded to 8 bytes.  Numbers are little-endian.  Reading checks every
 * bound: records may come from a process that should not be trusted.
 */
#ifndef DVOLFS_AGENT_FILE_H
#define DVOLFS_AGENT_FILE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* Attributes and extents of one file; more are not handed on, with -E2BIG. */
#define FILE_MAX_XATTR_BYTES ((size_t)1 << 20)
#define FILE_MAX_EXTENTS ((size_t)1 << 20)

struct file_time {
    int64_t s; /* since 1970, negative before */
    uint32_t ns;
};

/* stat(2), but for what only its machine understands. */
struct file_stat {
    uint32_t mode; /* type and permissions */
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint64_t size_bytes;
    uint64_t blocks; /* of 512 bytes */
    uint64_t dev;    /* with ino: which file it is */
    uint64_t ino;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    struct file_time mtime;
    struct file_time ctime;
    struct file_time atime;
    struct file_time birth; /* 0 where the file system does not tell */
};

/* A run of data; what lies between runs is a hole. */
struct file_extent {
    uint64_t offset;
    uint64_t bytes;
};

/* A record taken apart.  Everything points into it. */
struct file {
    struct file_stat stat;
    const char *name;        /* of a listing: within its directory; of a walk: the path */
    const char *link_target; /* of a symlink, else "" */
    const char *xattrs;      /* packed: file_xattr_next */
    size_t xattr_bytes;
    const char *extents; /* packed: file_extent_at */
    size_t extent_count;
    bool is_sparse; /* extents tell where its data is; else it is all data */
};

/* Which file of its device it is: a hash of inode number and birth, because the
 * number alone is soon another file's. */
uint64_t file_identity(const struct file_stat *stat);

/* Adds a record; file's extents are unpacked in `extents`.  -ENOMEM, -EMSGSIZE. */
must_check int file_write(struct buf *out, const struct file *file,
                          const struct file_extent *extents);

/*
 * Takes apart the record at *position of the len bytes and moves on: 1, or 0 at
 * their end.  -EBADMSG: not a sound record.
 */
must_check int file_read(const char *data, size_t len, size_t *position, struct file *ret_file);

/* Packs one attribute behind others.  Name without NUL bytes.  -ENOMEM, -EMSGSIZE. */
must_check int file_xattr_add(struct buf *packed, const char *name, const void *value,
                              size_t value_bytes);

/* The attribute at *position of packed ones, in turn: 1, or 0 at their end.
 * file_read has checked them. */
int file_xattr_next(const struct file *file, size_t *position, const char **ret_name,
                    const void **ret_value, size_t *ret_value_bytes);

/* The extent of that index, below extent_count. */
struct file_extent file_extent_at(const struct file *file, size_t index);

#endif
