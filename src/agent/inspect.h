/* SPDX-License-Identifier: MIT */
/*
 * Telling what is below a directory, as records of agent/file.h.
 *
 * The same code runs in the daemon, on a volume's own directory, and in the
 * agent within a helper container.  Nothing leads out of the root: see
 * agent/beneath.h.  Functions block on the disk only.
 */
#ifndef DVOLFS_AGENT_INSPECT_H
#define DVOLFS_AGENT_INSPECT_H

#include "agent/file.h"

enum {
    /* With the extents of sparse files, which are opened for it (lseek(2), SEEK_DATA). */
    INSPECT_EXTENTS = 1 << 0,
    /* With extended attributes. */
    INSPECT_XATTRS = 1 << 1,
};

/*
 * Adds the record of the file at path, its name being `name`.  -ENOENT; -EXDEV,
 * -ELOOP as for beneath_open; -errno of statx(2), readlink(2), listxattr(2).  An
 * attribute that may not be read, or goes meanwhile, is left out.
 */
must_check int inspect_file(int root, const char *path, const char *name, unsigned flags,
                            struct buf *out);

/* A directory being listed.  Not locked: one thread at a time, but for listing_piece. */
struct listing;

/*
 * Begins to list the directory at path; its names are read, and sorted by their
 * bytes, at once.  -ENOTDIR, -ENOENT, -errno of openat(2) and getdents(2).
 */
must_check int listing_open(int root, const char *path, struct listing **ret_listing);
void listing_close(struct listing *listing);
DEFINE_CLEANUP(cleanup_listing_impl, struct listing, listing_close)
#define cleanup_listing cleanup(cleanup_listing_impl)

/*
 * Adds the next records, in the order of names, until more than about max_bytes
 * are there: 1, or 0 when there are no more.  Names that are gone meanwhile are
 * passed over.  Every name that cannot be told is an error.
 */
must_check int listing_next(struct listing *listing, unsigned flags, size_t max_bytes,
                            struct buf *out);

/* How many names there are. */
size_t listing_count(const struct listing *listing);

/* Adds the records of up to `count` names from the one of that number on, counted from 0.
 * Any thread, several at once.  0, or errors as listing_next. */
must_check int listing_piece(const struct listing *listing, size_t from, size_t count,
                             unsigned flags, struct buf *out);

/* The directory that is listed. */
int listing_fd(const struct listing *listing);

/* What an open file is.  -errno. */
must_check int inspect_open(int fd, struct file_stat *ret);

/*
 * Opens the regular file at path for reading, provided it is still the one of dev and
 * identity (file_identity), and tells what it is.  What is there is looked at before it is
 * opened: opening a device may do something (tapes rewind, watchdogs bite), and a fifo's
 * writer waits for it; whoever has the directory may put one there.  The descriptor, or
 * -ESTALE: it is another, or none; errors as beneath_open.
 */
must_check int inspect_open_file(int root, const char *path, uint64_t dev, uint64_t identity,
                                 struct file_stat *ret_stat);

/*
 * The same below dir, at two thirds of the price: for a dir in a mount through which no
 * device can be opened and no symbolic link is followed.  What is put there between looking
 * and opening, within microseconds, is opened too and closed again; so a fifo's writer may
 * find its reader gone.
 * Never waits for a lease to be broken: -EAGAIN.  After any failure inspect_open_file may
 * still succeed.
 */
must_check int inspect_open_quickly(int dir, const char *path, uint64_t dev, uint64_t identity,
                                    struct file_stat *ret_stat);

/* Whether the directory is on a file system of this machine's disks or memory, of those we
 * know: what is asked of it is as a rule answered soon.  Asks the file system: of another
 * machine that may take long. */
bool inspect_is_of_this_machine(int dir);

/*
 * Writes what is dirty on the root's file system to the disk, so that whatever is
 * stored from now on changes a file's ctime, even through a mapping that was stored
 * to before: the kernel looks at the clock only where a page was clean.
 *
 * The time before it began, by the clock that ctimes are of.  Where the file system
 * gives no such promise (tmpfs; those of other machines), or could not be written, that
 * is INT64_MIN seconds: before all ctimes.
 */
struct file_time inspect_sync(int root);

#endif
