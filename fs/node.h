/* SPDX-License-Identifier: MIT */
/*
 * A node is one thing shown in the tree: what the kernel calls an inode.  Each
 * kind implements the operations it offers; the wrappers below refuse the rest
 * with the errno a user should see, so that nothing is ever ENOSYS or EIO by
 * omission.
 *
 * All operations return 0 (or a count) or a negative errno, with outputs
 * untouched on failure, and may run in several threads at once.  They wait for
 * the engine only where `waits` says so: such ones run in a thread of their own,
 * and give up with -EINTR when request->cancel is raised.  Others may wait for
 * this machine's disk.
 */
#ifndef DVOLFS_FS_NODE_H
#define DVOLFS_FS_NODE_H

#include "base/buf.h"
#include "base/cancel.h"
#include "base/cleanup.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* st_blksize, by which cp and other programs read and then write: no more than they take by
 * themselves.  What is written in larger pieces gets larger folios in the page cache (ext4,
 * linux 6.18), and a guest has to be given those by its host first: measured there, cp of
 * 4 GiB in pieces of 256 KiB takes 1.4 times as long as in pieces of 128 KiB, with dd to the
 * same disk it is 2 times, and 3 with 1 MiB. */
#define NODE_BLOCK_BYTES (128 << 10)

/* The same of a file that is being written: what the kernel sends at once.  800 MB arrive in
 * 0.65 of the time that pieces of 128 KiB take. */
#define NODE_WRITE_BYTES (1 << 20)

/* What the kernel reads ahead of a reader.  So much stays in a processor's cache between our
 * copy and the reader's: with 128 KiB, and with 1 MiB, cp of some GiB takes 1.15 times as
 * long. */
#define NODE_AHEAD_BYTES (256 << 10)

/* How long the kernel may trust what never changes. */
#define NODE_IMMUTABLE_SECONDS 3600.0

/* Who asks.  Valid during the call. */
struct request {
    pid_t thread; /* its thread id, as the kernel tells it; 0: not known */
    struct cancel *cancel;
};

/* The process that the asking thread belongs to (Tgid in /proc/TID/status,
 * proc(5)); the thread's own id where that cannot be told. */
pid_t request_process(const struct request *request);

struct node;

/* What an open file needs; each kind of node defines its own. */
struct handle;

/* How the kernel may cache an open file. */
enum open_caching {
    OPEN_PLAIN,      /* pages are dropped at each open */
    OPEN_PREFILL,    /* the same, unless read_whole has all contents for the kernel at once */
    OPEN_KEEP_PAGES, /* the contents of this node never change */
    OPEN_DIRECT,     /* no pages: each read and write comes here */
};

struct opened {
    struct handle *handle;
    enum open_caching caching;
    uint64_t bytes; /* its size, where that was not known before it was opened; else 0 */
};

/* Takes a name of a directory; a negative errno ends the listing. */
typedef int node_emit_fn(void *data, const char *name, uint64_t ino, mode_t type);

/*
 * The same with the node itself, whose reference it takes, its attributes, and
 * for how long they may be trusted, as may the name.
 */
typedef int node_emit_child_fn(void *data, const char *name, struct node *child,
                               const struct stat *stat, double seconds);

/* What an open listing needs; each kind of directory that streams defines its own. */
struct lister;

/* Operations that may wait, for node_ops.waits. */
enum {
    NODE_WAITS_GETATTR = 1 << 0,
    NODE_WAITS_OPEN = 1 << 1,
    NODE_WAITS_READ = 1 << 2,  /* and seek */
    NODE_WAITS_FLUSH = 1 << 3, /* and fsync */
    NODE_WAITS_RENAME = 1 << 4,
    NODE_WAITS_LOOKUP = 1 << 5, /* and readlink, attributes */
    NODE_WAITS_LIST = 1 << 6,   /* list_open and list_next */
    NODE_WAITS_MKDIR = 1 << 7,
};

struct node_ops {
    unsigned waits;

    /* Frees the node; nobody refers to it any more. */
    void (*free)(struct node *node);

    /*
     * Fills *ret_stat, preset to an empty file of the mounting user with the
     * node's number.  *ret_seconds: how long the kernel may trust it (preset to 0).
     */
    int (*getattr)(struct node *node, const struct request *request, struct stat *ret_stat,
                   double *ret_seconds);

    /*
     * As far as it is known without waiting, where getattr may wait: mode at
     * least.  Needed only there.
     */
    void (*peek)(struct node *node, struct stat *ret_stat);

    /* ---- directories ---- */

    /*
     * The child called name: a new reference.  *ret_seconds: how long the kernel
     * may trust the name (preset to 0).  Must not wait for the engine: `ls` calls it.
     */
    int (*lookup)(struct node *dir, const struct request *request, const char *name,
                  struct node **ret_child, double *ret_seconds);
    /* All names but "." and ".."; without side effects.  Must not block. */
    int (*list)(struct node *dir, node_emit_fn *emit, void *data);
    /*
     * Instead of list, for directories that may be large: listed in pieces,
     * children and all.  list_next: 1, or 0 at the end.
     */
    int (*list_open)(struct node *dir, const struct request *request, struct lister **ret_lister);
    int (*list_next)(struct node *dir, struct lister *lister, const struct request *request,
                     node_emit_child_fn *emit, void *data);
    void (*list_close)(struct node *dir, struct lister *lister);
    /* A new file, open for reading and writing; flags as open(2), mode without type. */
    int (*create)(struct node *dir, const char *name, int flags, mode_t mode,
                  struct node **ret_child, struct opened *ret_opened);
    /* A new directory; may wait. */
    int (*mkdir)(struct node *dir, const struct request *request, const char *name,
                 struct node **ret_child);
    int (*rmdir)(struct node *dir, const char *name);
    int (*unlink)(struct node *dir, const char *name);
    /* Within the same directory. */
    int (*rename)(struct node *dir, const struct request *request, const char *from, const char *to,
                  bool no_replace);
    /* The errno of creating anything there where it is not offered; 0: EROFS. */
    int refuse_create;

    /* ---- files ---- */

    /* The errno of opening it for writing where that is not offered; 0: EROFS. */
    int refuse_writing;
    /* flags as open(2); O_TRUNC is set where the kernel wants it done here. */
    int (*open)(struct node *node, const struct request *request, int flags,
                struct opened *ret_opened);
    /* Fewer bytes than asked only at the end of the file. */
    ssize_t (*read)(struct node *node, struct handle *handle, const struct request *request,
                    void *data, size_t len, uint64_t offset);
    /*
     * The number of bytes of the whole contents as they are now, malloc'ed; 0: none, or
     * too much, or the kernel may have more than these of older contents.
     */
    ssize_t (*read_whole)(struct node *node, struct handle *handle, const struct request *request,
                          char **ret_data);
    ssize_t (*write)(struct node *node, struct handle *handle, const void *data, size_t len,
                     uint64_t offset);
    /* Each close(2) of a descriptor, with handle; its error is close's. */
    int (*flush)(struct node *node, struct handle *handle, const struct request *request);
    void (*release)(struct node *node, struct handle *handle);
    /* lseek(2) with SEEK_DATA or SEEK_HOLE: the offset. */
    int64_t (*seek)(struct node *node, struct handle *handle, const struct request *request,
                    uint64_t offset, int whence);
    int (*truncate)(struct node *node, uint64_t size);
    /* is_now: the time is that of the call, as touch(1) asks for. */
    int (*set_times)(struct node *node, const struct timespec *mtime, bool is_now);
    int (*set_mode)(struct node *node, mode_t mode);

    /* ---- any ---- */

    /* The errno of every change that is not offered; 0: see the dispatch below. */
    int refuse_change;
    /*
     * For the log: a change that is not offered was refused, of `name` in this directory
     * (NULL: of the node itself).  Without it none is told.
     */
    void (*tell_refused)(struct node *node, const char *name);
    /* Adds a symbolic link's target. */
    int (*readlink)(struct node *node, const struct request *request, struct buf *out);
    /* Whether get_xattr is worth a call, which may wait; NULL: always.  ls(1) asks every
     * file for attributes that few have. */
    bool (*may_have_xattr)(const char *name);
    /* Adds the value of an extended attribute; -ENODATA. */
    int (*get_xattr)(struct node *node, const struct request *request, const char *name,
                     struct buf *out);
    /* Adds the names of all, each with its NUL. */
    int (*list_xattrs)(struct node *node, const struct request *request, struct buf *out);
    /*
     * An equal node (same number) was known to the kernel already: `fresh`, which
     * goes now, may know better where it is.
     */
    void (*refresh)(struct node *known, struct node *fresh);
};

/* The head of every kind of node. */
struct node {
    const struct node_ops *ops;
    uint64_t ino;
    unsigned waits; /* NODE_WAITS_...: those of ops, and more where the kind sets them */
    atomic_int refs;
    atomic_uint open_count; /* of open_files.h: how often the kernel has it open */
};

/* To be called by the kind's constructor: one reference. */
void node_init(struct node *node, const struct node_ops *ops, uint64_t ino);
struct node *node_ref(struct node *node);
/* The last one frees it.  NULL is allowed. */
void node_unref(struct node *node);
DEFINE_CLEANUP(cleanup_node_impl, struct node, node_unref)
#define cleanup_node cleanup(cleanup_node_impl)

/* Sets size and time of a made-up file, and what follows from them. */
void node_stat_made_up(struct stat *st, mode_t mode, uint64_t size, const struct timespec *mtime);

bool node_may_wait(const struct node *node, unsigned operation);

/* The dispatch.  What a kind does not offer is refused:
 *   lookup, list       ENOTDIR
 *   create             the directory's refuse_create, else EROFS
 *   mkdir              as create
 *   unlink, rmdir, rename  EPERM
 *   open for writing   refuse_writing, else EROFS; open at all without .open: EACCES
 *   write, truncate    EROFS
 *   set_times, set_mode  EPERM
 *   readlink, seek     EINVAL
 *   get_xattr          ENODATA; list_xattrs: none
 */
int node_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                 double *ret_seconds);
/* The same for the answer to a lookup: never waits, and then is trusted for no
 * time, so that whoever wants to know asks. */
int node_peek(struct node *node, const struct request *request, struct stat *ret_stat,
              double *ret_seconds);
int node_lookup(struct node *dir, const struct request *request, const char *name,
                struct node **ret_child, double *ret_seconds);
int node_list(struct node *dir, node_emit_fn *emit, void *data);
int node_create(struct node *dir, const char *name, int flags, mode_t mode, struct node **ret_child,
                struct opened *ret_opened);
int node_mkdir(struct node *dir, const struct request *request, const char *name,
               struct node **ret_child);
int node_rmdir(struct node *dir, const char *name);
int node_refuse_create(struct node *dir, const char *name);
/* For changes that no kind offers, of name in it or (NULL) of itself: refuse_change, else
 * -errno as given. */
int node_refuse(struct node *node, const char *name, int otherwise);
int node_unlink(struct node *dir, const char *name);
int node_rename(struct node *dir, const struct request *request, const char *from, const char *to,
                bool no_replace);
int node_open(struct node *node, const struct request *request, int flags,
              struct opened *ret_opened);
ssize_t node_read(struct node *node, struct handle *handle, const struct request *request,
                  void *data, size_t len, uint64_t offset);
ssize_t node_write(struct node *node, struct handle *handle, const void *data, size_t len,
                   uint64_t offset);
int node_flush(struct node *node, struct handle *handle, const struct request *request);
void node_release(struct node *node, struct handle *handle);
int node_truncate(struct node *node, uint64_t size);
int node_set_times(struct node *node, const struct timespec *mtime, bool is_now);
int node_set_mode(struct node *node, mode_t mode);
int64_t node_seek(struct node *node, struct handle *handle, const struct request *request,
                  uint64_t offset, int whence);
int node_readlink(struct node *node, const struct request *request, struct buf *out);
int node_get_xattr(struct node *node, const struct request *request, const char *name,
                   struct buf *out);
int node_list_xattrs(struct node *node, const struct request *request, struct buf *out);
/* Accepted without effect where the mode may be set: tools that copy do it after. */
int node_set_owner(struct node *node);

#endif
