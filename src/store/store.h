/* SPDX-License-Identifier: MIT */
/*
 * A directory of kept snapshots:
 *
 *   DIR/VOLUME/NAME.tar.zst     a snapshot: it is there once this is
 *   DIR/VOLUME/NAME.index       what is in it (store/index.h); can be made again
 *   DIR/.new/XXXXXX             what is being made, locked by whoever makes it
 *
 * Nothing of it is kept in memory, so that several mounts may share it, and it
 * may hold any number of snapshots.  No link is followed below DIR.  A volume's or
 * snapshot's name that can be none is -EINVAL.  Any thread may call; calls block on
 * the disk.
 */
#ifndef DVOLFS_STORE_STORE_H
#define DVOLFS_STORE_STORE_H

#include "base/fail.h"

#include <stdbool.h>
#include <sys/stat.h>

struct store;

/* Makes the directory where it is missing, and removes from .new what nobody makes
 * any more.  -errno with why. */
must_check int store_open(const char *dir, struct store **ret_store, struct fail *why);
void store_close(struct store *store);
DEFINE_CLEANUP(cleanup_store_impl, struct store, store_close)
#define cleanup_store cleanup(cleanup_store_impl)

/* Whether a snapshot may have that name: [A-Za-z0-9][A-Za-z0-9_.-]*, short enough for a
 * file system with what is added to it, and not "now", which is never kept. */
bool store_is_name(const char *name);

/* A file that is being made. */
struct store_new {
    int fd; /* read and write */
    char *path;
};

/* -errno with why: -ENOSPC, ...  The caller calls store_new_done.  The lock goes with
 * the descriptor, which must not be closed before. */
must_check int store_new_file(struct store *store, struct store_new *ret_file, struct fail *why);
/* Removes it, unless it was published.  One that is all zeros but fd = -1 is allowed. */
void store_new_done(struct store_new *file);
#define STORE_NEW_INIT                                                                             \
    {                                                                                              \
        .fd = -1                                                                                   \
    }
#define cleanup_store_new cleanup(store_new_done)

/*
 * Makes the two files a snapshot: when it returns 0 that is safe on the disk, and
 * before it nobody sees anything.  -EEXIST: there is one of that name; -errno with why.
 */
must_check int store_publish(struct store *store, const char *volume, const char *name,
                             struct store_new *archive, struct store_new *index, struct fail *why);

/* Puts an index beside a snapshot that lacks a good one.  -ENOENT: there is no such
 * snapshot any more; -errno with why. */
must_check int store_publish_index(struct store *store, const char *volume, const char *name,
                                   struct store_new *index, struct fail *why);

/* Whoever has it open can go on reading.  -ENOENT. */
must_check int store_remove(struct store *store, const char *volume, const char *name,
                            struct fail *why);

/* -ENOENT; -EEXIST: never replaces another snapshot. */
must_check int store_rename(struct store *store, const char *volume, const char *from,
                            const char *to, struct fail *why);

/* Takes a snapshot's name; a negative errno ends the listing with it. */
typedef int store_fn(void *data, const char *name);

/* All snapshots of a volume, in no order; none where the volume is not known. */
must_check int store_list(struct store *store, const char *volume, store_fn *fn, void *data,
                          struct fail *why);

/* The one that was taken last (its file's mtime), malloc'ed.  -ENOENT: there is none. */
must_check int store_newest(struct store *store, const char *volume, char **ret_name,
                            struct fail *why);

/* As stat(2) of the archive.  -ENOENT. */
must_check int store_stat(struct store *store, const char *volume, const char *name,
                          struct stat *ret_stat);

/* The archive, for reading, the caller's.  -ENOENT, -errno. */
must_check int store_open_archive(struct store *store, const char *volume, const char *name,
                                  struct fail *why);

/* Where its index is or should be, malloc'ed; NULL: out of memory.  The names must be
 * ones that can be. */
must_check char *store_index_path(struct store *store, const char *volume, const char *name);

/* As statvfs(3) of the store. */
struct statvfs;
must_check int store_statvfs(struct store *store, struct statvfs *ret_stat);

/* Whether blocks can be shared between files of it (FICLONERANGE): then frames
 * begin at whole blocks of that many bytes; else 0. */
unsigned store_block_bytes(const struct store *store);

#endif
