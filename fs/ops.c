/* SPDX-License-Identifier: MIT */
/*
 * Each request becomes a `struct call`.  One that cannot wait runs at once, on
 * the stack of the session's thread; one that may goes to a worker with a copy
 * on the heap and a cancel, which the kernel's interrupt (a signal to the
 * asking process) or the end of the mount raises.
 */
#include "fs/ops.h"

#include "base/buf.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* linux/fuse.h: what setattr may ask for beside these is left alone. */
#define TO_SET_OWNER (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)
#define TO_SET_MTIME (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)
/* A directory's listing in memory: 100,000 volumes of 255 bytes. */
#define LISTING_MAX_BYTES ((size_t)64 << 20)

struct call {
    fuse_req_t req;
    struct front *front;
    struct node *node;
    struct request request;
    struct cancel_hook stop_hook;
    void (*run)(struct call *call);

    struct fuse_file_info fi;
    size_t size;
    off_t offset;
    char *name;
    char *new_name;
    unsigned flags;
};

/* ---- calls -------------------------------------------------------------------- */

/* False, and answered, where the kernel's number is none we know. */
static bool call_init(struct call *call, fuse_req_t req, fuse_ino_t ino,
                      void (*run)(struct call *call))
{
    *call = (struct call){.req = req, .front = fuse_req_userdata(req), .run = run};
    call->request.thread = fuse_req_ctx(req)->pid;
    call->node = inode_table_get(call->front->inodes, ino);
    if (!call->node)
        (void)fuse_reply_err(req, ESTALE);
    return call->node;
}

static void call_done(struct call *call)
{
    node_unref(call->node);
    free(call->name);
    free(call->new_name);
}

static void raise_cancel(void *data)
{
    cancel_raise(data);
}

static void on_interrupt(fuse_req_t req, void *data)
{
    (void)req;
    cancel_raise(data);
}

/* In a worker. */
static void run_waiting(void *data)
{
    struct call *call = data;
    struct cancel *cancel = call->request.cancel;
    struct front *front = call->front;
    fuse_req_interrupt_func(call->req, on_interrupt, cancel);
    call->stop_hook = (struct cancel_hook){.run = raise_cancel, .data = cancel};
    cancel_hook_add(front->stop, &call->stop_hook);
    call->run(call);
    cancel_hook_remove(front->stop, &call->stop_hook);
    cancel_unref(cancel);
    call_done(call);
    free(call);
}

/* Before each reply: after it the request is libfuse's, and a late interrupt
 * must not find our cancel. */
static void quiet(struct call *call)
{
    if (call->request.cancel)
        fuse_req_interrupt_func(call->req, NULL, NULL);
}

static void reply_err(struct call *call, int r)
{
    quiet(call);
    (void)fuse_reply_err(call->req, r < 0 ? -r : 0);
}

static void dispatch(struct call *call, unsigned operation)
{
    if (!node_may_wait(call->node, operation)) {
        call->run(call);
        call_done(call);
        return;
    }
    struct call *copy = malloc(sizeof(*copy));
    struct cancel *cancel = cancel_new();
    int r = -ENOMEM;
    if (copy && cancel) {
        *copy = *call;
        copy->request.cancel = cancel;
        r = workers_submit(call->front->workers, run_waiting, copy);
    }
    if (r < 0) {
        cancel_unref(cancel);
        free(copy);
        reply_err(call, r);
        call_done(call);
    }
}

/* ---- names and attributes --------------------------------------------------------- */

/* The answer to a name: counts the lookup, and takes it back where the kernel
 * no longer wants it. */
static int make_entry(struct call *call, struct node *child, double name_seconds,
                      struct fuse_entry_param *ret_entry)
{
    struct node *known cleanup_node = inode_table_lookup(call->front->inodes, child);
    if (!known)
        return -ENOMEM;
    struct fuse_entry_param entry = {.ino = known->ino, .entry_timeout = name_seconds};
    int r = node_peek(known, &call->request, &entry.attr, &entry.attr_timeout);
    if (r < 0) {
        inode_table_forget(call->front->inodes, known->ino, 1);
        return r;
    }
    *ret_entry = entry;
    return 0;
}

static void run_lookup(struct call *call)
{
    struct node *child = NULL;
    double seconds = 0;
    struct fuse_entry_param entry = {0};
    int r = node_lookup(call->node, &call->request, call->name, &child, &seconds);
    if (r == 0)
        r = make_entry(call, child, seconds, &entry);
    if (r < 0)
        reply_err(call, r);
    else if (fuse_reply_entry(call->req, &entry) == -ENOENT)
        inode_table_forget(call->front->inodes, entry.ino, 1);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, run_lookup))
        return;
    call.name = strdup(name);
    if (call.name)
        run_lookup(&call);
    else
        reply_err(&call, -ENOMEM);
    call_done(&call);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    struct front *front = fuse_req_userdata(req);
    inode_table_forget(front->inodes, ino, lookups);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct front *front = fuse_req_userdata(req);
    for (size_t i = 0; i < count; i++)
        inode_table_forget(front->inodes, forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void run_getattr(struct call *call)
{
    struct stat st;
    double seconds;
    int r = node_getattr(call->node, &call->request, &st, &seconds);
    quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else
        (void)fuse_reply_attr(call->req, &st, seconds);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct call call;
    if (call_init(&call, req, ino, run_getattr))
        dispatch(&call, NODE_WAITS_GETATTR);
}

static int set_attributes(struct node *node, const struct stat *attr, int to_set)
{
    int r = 0;
    if (to_set & TO_SET_OWNER)
        r = node_set_owner(node);
    if (r == 0 && to_set & FUSE_SET_ATTR_MODE)
        r = node_set_mode(node, attr->st_mode);
    if (r == 0 && to_set & FUSE_SET_ATTR_SIZE)
        r = node_truncate(node, (uint64_t)attr->st_size);
    if (r == 0 && to_set & TO_SET_MTIME) {
        struct timespec mtime = attr->st_mtim;
        if (to_set & FUSE_SET_ATTR_MTIME_NOW)
            (void)clock_gettime(CLOCK_REALTIME, &mtime);
        r = node_set_times(node, &mtime);
    }
    return r;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    (void)fi;
    struct call call;
    if (!call_init(&call, req, ino, run_getattr))
        return;
    int r = set_attributes(call.node, attr, to_set);
    if (r == 0) {
        dispatch(&call, NODE_WAITS_GETATTR); /* the answer is the attributes as they are now */
        return;
    }
    reply_err(&call, r);
    call_done(&call);
}

/* ---- changes to directories ---------------------------------------------------------- */

/* Making anything but a regular file: nowhere offered. */
static void refuse_creation(fuse_req_t req, fuse_ino_t parent)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    reply_err(&call, node_refuse_create(call.node));
    call_done(&call);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    (void)name, (void)mode, (void)dev;
    refuse_creation(req, parent);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)name, (void)mode;
    refuse_creation(req, parent);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target, (void)name;
    refuse_creation(req, parent);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    (void)ino, (void)new_name;
    refuse_creation(req, new_parent);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    reply_err(&call, node_unlink(call.node, name));
    call_done(&call);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)name;
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    reply_err(&call, -EPERM);
    call_done(&call);
}

static void run_rename(struct call *call)
{
    reply_err(call, node_rename(call->node, &call->request, call->name, call->new_name,
                                call->flags & RENAME_NOREPLACE));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct call call;
    if (!call_init(&call, req, parent, run_rename))
        return;
    int r = 0;
    if (parent != new_parent)
        r = -EXDEV; /* mv then copies */
    else if (flags & ~(unsigned)RENAME_NOREPLACE)
        r = -EINVAL;
    else if (!(call.name = strdup(name)) || !(call.new_name = strdup(new_name)))
        r = -ENOMEM;
    call.flags = flags;
    if (r == 0) {
        dispatch(&call, NODE_WAITS_RENAME);
        return;
    }
    reply_err(&call, r);
    call_done(&call);
}

/* ---- files ------------------------------------------------------------------------------ */

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return (struct handle *)(uintptr_t)fi->fh;
}

static void set_opened(struct fuse_file_info *fi, const struct opened *opened)
{
    fi->fh = (uint64_t)(uintptr_t)opened->handle;
    fi->direct_io = opened->caching == OPEN_DIRECT;
    fi->keep_cache = opened->caching == OPEN_KEEP_PAGES;
}

static void run_open(struct call *call)
{
    struct opened opened;
    int r = node_open(call->node, &call->request, call->fi.flags, &opened);
    quiet(call);
    if (r < 0) {
        (void)fuse_reply_err(call->req, -r);
        return;
    }
    set_opened(&call->fi, &opened);
    if (fuse_reply_open(call->req, &call->fi) == -ENOENT)
        node_release(call->node, opened.handle);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_open))
        return;
    call.fi = *fi;
    dispatch(&call, NODE_WAITS_OPEN);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    struct node *child = NULL;
    struct opened opened;
    struct fuse_entry_param entry;
    int r = node_create(call.node, name, mode, &child, &opened);
    if (r == 0) {
        struct node *created cleanup_node = node_ref(child);
        r = make_entry(&call, child, 0, &entry);
        set_opened(fi, &opened);
        bool unwanted = r == 0 && fuse_reply_create(req, &entry, fi) == -ENOENT;
        if (unwanted)
            inode_table_forget(call.front->inodes, entry.ino, 1);
        if (unwanted || r < 0)
            node_release(created, opened.handle);
    }
    if (r < 0)
        reply_err(&call, r);
    call_done(&call);
}

static void run_read(struct call *call)
{
    cleanup_free char *data = malloc(call->size);
    ssize_t n = data ? node_read(call->node, handle_of(&call->fi), &call->request, data, call->size,
                                 (uint64_t)call->offset)
                     : -ENOMEM;
    quiet(call);
    if (n < 0)
        (void)fuse_reply_err(call->req, (int)-n);
    else
        (void)fuse_reply_buf(call->req, data, (size_t)n);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_read))
        return;
    call.fi = *fi;
    call.size = size;
    call.offset = offset;
    dispatch(&call, NODE_WAITS_READ);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    ssize_t n = node_write(call.node, handle_of(fi), data, size, (uint64_t)offset);
    if (n < 0)
        reply_err(&call, (int)n);
    else
        (void)fuse_reply_write(req, (size_t)n);
    call_done(&call);
}

static void run_flush(struct call *call)
{
    reply_err(call, node_flush(call->node, handle_of(&call->fi), &call->request));
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_flush))
        return;
    call.fi = *fi;
    dispatch(&call, NODE_WAITS_FLUSH);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)data_only;
    op_flush(req, ino, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    node_release(call.node, handle_of(fi));
    reply_err(&call, 0);
    call_done(&call);
}

/* ---- listings ------------------------------------------------------------------------------ */

/* The names of a directory as they were when its reading began; entries are
 * struct listed, each followed by its name. */
struct listing {
    struct buf entries;
    bool filled;
};

struct listed {
    uint64_t ino;
    mode_t type;
    unsigned name_bytes; /* with the NUL */
};

static int add_listed(void *data, const char *name, uint64_t ino, mode_t type)
{
    struct listing *listing = data;
    struct listed head = {.ino = ino, .type = type, .name_bytes = (unsigned)strlen(name) + 1};
    int r = buf_add(&listing->entries, &head, sizeof(head));
    return r < 0 ? r : buf_add(&listing->entries, name, head.name_bytes);
}

static int fill_listing(struct listing *listing, struct node *dir)
{
    buf_clear(&listing->entries);
    int r = add_listed(listing, ".", dir->ino, S_IFDIR);
    if (r == 0)
        r = add_listed(listing, "..", dir->ino, S_IFDIR);
    if (r == 0)
        r = node_list(dir, add_listed, listing);
    listing->filled = r == 0;
    return r;
}

static struct listing *listing_of(const struct fuse_file_info *fi)
{
    return (struct listing *)(uintptr_t)fi->fh;
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct listing *listing = calloc(1, sizeof(*listing));
    (void)ino;
    if (!listing) {
        (void)fuse_reply_err(req, ENOMEM);
        return;
    }
    buf_init(&listing->entries, LISTING_MAX_BYTES);
    fi->fh = (uint64_t)(uintptr_t)listing;
    if (fuse_reply_open(req, fi) == -ENOENT)
        free(listing);
}

/* Offsets are byte positions in the listing after the entry. */
static size_t copy_listed(fuse_req_t req, const struct listing *listing, off_t offset, char *out,
                          size_t room)
{
    size_t at = (size_t)offset, used = 0;
    while (at < listing->entries.len) {
        struct listed head;
        memcpy(&head, listing->entries.data + at, sizeof(head));
        const char *name = listing->entries.data + at + sizeof(head);
        size_t next = at + sizeof(head) + head.name_bytes;
        struct stat st = {.st_ino = head.ino, .st_mode = head.type};
        size_t need = fuse_add_direntry(req, out + used, room - used, name, &st, (off_t)next);
        if (need > room - used)
            break;
        used += need;
        at = next;
    }
    return used;
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    struct listing *listing = listing_of(fi);
    int r = 0;
    if (offset == 0 || !listing->filled) /* rewinddir(3) sees what is new */
        r = fill_listing(listing, call.node);
    cleanup_free char *out = malloc(size);
    if (!out)
        r = -ENOMEM;
    if (r < 0)
        reply_err(&call, r);
    else
        (void)fuse_reply_buf(req, out, copy_listed(req, listing, offset, out, size));
    call_done(&call);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct listing *listing = listing_of(fi);
    buf_done(&listing->entries);
    free(listing);
    (void)fuse_reply_err(req, 0);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)ino, (void)data_only, (void)fi;
    (void)fuse_reply_err(req, 0);
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* What is written here goes to the spool first: its room is what counts. */
static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct front *front = fuse_req_userdata(req);
    struct statvfs stat;
    int r = spool_statvfs(front->spool, &stat);
    stat.f_namemax = 255;
    if (r < 0)
        (void)fuse_reply_err(req, -r);
    else
        (void)fuse_reply_statfs(req, &stat);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    (void)ino, (void)name, (void)value, (void)size, (void)flags;
    (void)fuse_reply_err(req, ENOTSUP);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    (void)ino, (void)name, (void)size;
    (void)fuse_reply_err(req, ENODATA);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    (void)ino;
    if (size == 0)
        (void)fuse_reply_xattr(req, 0);
    else
        (void)fuse_reply_buf(req, NULL, 0);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    (void)ino, (void)name;
    (void)fuse_reply_err(req, ENOTSUP);
}

const struct fuse_lowlevel_ops ops_table = {
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .symlink = op_symlink,
    .link = op_link,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .rename = op_rename,
    .open = op_open,
    .create = op_create,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .fsync = op_fsync,
    .release = op_release,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .fsyncdir = op_fsyncdir,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
};
