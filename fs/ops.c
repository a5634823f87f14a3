/* SPDX-License-Identifier: MIT */
#include "fs/ops_call.h"

#include "base/buf.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* linux/fuse.h: what setattr may ask for beside these is left alone. */
#define TO_SET_OWNER (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)
#define TO_SET_MTIME (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)

/* ---- names and attributes --------------------------------------------------------- */

static void run_lookup(struct call *call)
{
    struct node *child = NULL;
    double seconds = 0;
    struct fuse_entry_param entry = {0};
    int r = node_lookup(call->node, &call->request, call->name, &child, &seconds);
    if (r == 0)
        r = call_entry(call, child, seconds, &entry);
    call_quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else if (fuse_reply_entry(call->req, &entry) == -ENOENT)
        inode_table_forget(call->front->inodes, entry.ino, 1);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, run_lookup))
        return;
    call.name = strdup(name);
    if (call.name) {
        call_dispatch(&call, NODE_WAITS_LOOKUP);
        return;
    }
    call_fail(&call, -ENOMEM);
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
    call_quiet(call);
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
        call_dispatch(&call, NODE_WAITS_GETATTR);
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
        r = node_set_times(node, &mtime, to_set & FUSE_SET_ATTR_MTIME_NOW);
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
        call_dispatch(&call, NODE_WAITS_GETATTR); /* the answer is the attributes as they are now */
        return;
    }
    call_fail(&call, r);
    call_done(&call);
}

/* ---- changes to directories ---------------------------------------------------------- */

/* Making anything but a regular file: nowhere offered. */
static void refuse_creation(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    call_fail(&call, node_refuse_create(call.node, name));
    call_done(&call);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
    (void)mode, (void)dev;
    refuse_creation(req, parent, name);
}

static void run_mkdir(struct call *call)
{
    struct node *child = NULL;
    struct fuse_entry_param entry = {0};
    int r = node_mkdir(call->node, &call->request, call->name, &child);
    if (r == 0)
        r = call_entry(call, child, 0, &entry);
    call_quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else if (fuse_reply_entry(call->req, &entry) == -ENOENT)
        inode_table_forget(call->front->inodes, entry.ino, 1);
}

/* The mode is that of what is made there, and not the caller's to choose. */
static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)mode;
    struct call call;
    if (!call_init(&call, req, parent, run_mkdir))
        return;
    call.name = strdup(name);
    if (call.name) {
        call_dispatch(&call, NODE_WAITS_MKDIR);
        return;
    }
    call_fail(&call, -ENOMEM);
    call_done(&call);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target;
    refuse_creation(req, parent, name);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
    (void)ino;
    refuse_creation(req, new_parent, new_name);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    call_fail(&call, node_unlink(call.node, name));
    call_done(&call);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call call;
    if (!call_init(&call, req, parent, NULL))
        return;
    call_fail(&call, node_rmdir(call.node, name));
    call_done(&call);
}

static void run_rename(struct call *call)
{
    call_fail(call, node_rename(call->node, &call->request, call->name, call->new_name,
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
        r = node_refuse(call.node, name, -EXDEV); /* EXDEV: mv then copies */
    else if (flags & ~(unsigned)RENAME_NOREPLACE)
        r = node_refuse(call.node, name, -EINVAL);
    else if (!(call.name = strdup(name)) || !(call.new_name = strdup(new_name)))
        r = -ENOMEM;
    call.flags = flags;
    if (r == 0) {
        call_dispatch(&call, NODE_WAITS_RENAME);
        return;
    }
    call_fail(&call, r);
    call_done(&call);
}

/* ---- files ------------------------------------------------------------------------------ */

static struct handle *handle_of(const struct fuse_file_info *fi)
{
    return open_file_of(fi)->handle;
}

/* Takes what was opened.  -ENOMEM: it has been released. */
static int set_opened(struct front *front, struct fuse_file_info *fi, struct node *node,
                      const struct opened *opened)
{
    struct open_file *file = open_files_add(front->open_files, node, opened->handle, node_release);
    if (!file) {
        node_release(node, opened->handle);
        return -ENOMEM;
    }
#if FUSE_MAJOR_VERSION > 3 || FUSE_MINOR_VERSION >= 11
    fi->noflush = !node->ops->flush; /* spares a request at each close */
#endif
    fi->fh = (uint64_t)(uintptr_t)file;
    fi->direct_io = opened->caching == OPEN_DIRECT;
    fi->keep_cache = opened->caching == OPEN_KEEP_PAGES;
    return 0;
}

static int store(struct fuse_session *session, uint64_t ino, uint64_t offset, char *data,
                 size_t len)
{
    struct fuse_bufvec contents = FUSE_BUFVEC_INIT(len);
    contents.buf[0].mem = data;
    return fuse_lowlevel_notify_store(session, ino, (off_t)offset, &contents, 0);
}

/*
 * Tells the kernel the size of a file that has got it just now.  It goes by what it
 * was told at the lookup, unless somebody asks for attributes, as it does itself
 * where it checks permissions, and as sendfile(2) does not.  The last page brings the
 * size with it (linux, fs/fuse/dev.c, fuse_notify_store).
 */
static void give_size(struct call *call, const struct opened *opened)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (opened->bytes == 0 || call->front->kernel_checks)
        return;
    uint64_t at = (opened->bytes - 1) / page * page;
    size_t len = (size_t)(opened->bytes - at);
    cleanup_free char *data = malloc(page);
    if (data &&
        node_read(call->node, opened->handle, &call->request, data, len, at) == (ssize_t)len)
        (void)store(call->front->session, call->node->ino, at, data, len);
}

/*
 * Spares the kernel the READ that would follow, and whoever looks at the time of
 * access the GETATTR after that.  What it reads is as fresh as what a READ would
 * have told.  False: the kernel must read for itself.
 */
static bool give_contents(struct call *call, const struct opened *opened)
{
    struct front *front = call->front;
    uint64_t ino = call->node->ino;
    /* Whoever may be interrupted does not wait for others. */
    struct prefill *prefill = prefill_begin(front->prefills, ino, !call->request.cancel);
    if (!prefill)
        return false;
    cleanup_free char *data = NULL;
    ssize_t n = call->node->ops->read_whole(call->node, opened->handle, &call->request, &data);
    int r = n > 0 ? store(front->session, ino, 0, data, (size_t)n) : -ENODATA;
    if (prefill_end(front->prefills, prefill))
        return r == 0;
    (void)fuse_lowlevel_notify_inval_inode(front->session, ino, 0, 0);
    return false;
}

static void run_open(struct call *call)
{
    struct opened opened;
    int r = node_open(call->node, &call->request, call->fi.flags, &opened);
    if (r < 0) {
        call_fail(call, r);
        return;
    }
    if (opened.caching == OPEN_PREFILL && give_contents(call, &opened))
        opened.caching = OPEN_KEEP_PAGES;
    else
        prefill_none(call->front->prefills, call->node->ino);
    give_size(call, &opened);
    r = set_opened(call->front, &call->fi, call->node, &opened);
    if (r < 0) {
        call_fail(call, r);
        return;
    }
    call_quiet(call);
    if (fuse_reply_open(call->req, &call->fi) == -ENOENT)
        open_files_close(call->front->open_files, open_file_of(&call->fi));
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_open))
        return;
    call.fi = *fi;
    call_dispatch(&call, NODE_WAITS_OPEN);
}

/* -ENOMEM: nothing has been replied, or kept. */
static int reply_created(struct call *call, struct node *created, const struct opened *opened,
                         const struct fuse_entry_param *entry, struct fuse_file_info *fi)
{
    struct front *front = call->front;
    int r = set_opened(front, fi, created, opened);
    bool unwanted = r == 0 && fuse_reply_create(call->req, entry, fi) == -ENOENT;
    if (unwanted)
        open_files_close(front->open_files, open_file_of(fi));
    if (unwanted || r < 0)
        inode_table_forget(front->inodes, entry->ino, 1);
    return r;
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
    int r = node_create(call.node, name, fi->flags, mode, &child, &opened);
    if (r == 0) {
        struct node *created cleanup_node = node_ref(child);
        r = call_entry(&call, child, 0, &entry);
        if (r < 0)
            node_release(created, opened.handle);
        else
            r = reply_created(&call, created, &opened, &entry, fi);
    }
    if (r < 0)
        call_fail(&call, r);
    call_done(&call);
}

/* Of one file the kernel keeps what is below so much, and what was read just before. */
#define KEPT_BYTES ((uint64_t)1 << 30)
#define KEPT_BEHIND_BYTES ((uint64_t)16 << 20)
#define DROP_BYTES ((uint64_t)16 << 20)

/* What the kernel is to drop of a file: nothing where both are the same. */
struct pages {
    uint64_t from, to;
};
static atomic_flag is_dropping = ATOMIC_FLAG_INIT;

/*
 * What was read a while ago of a large file: it is as a rule read once, and all of it in
 * memory, as well as what it is made from, would be in the way of others.  `cp` of 4 GiB
 * takes half the time so, on a machine that has to be given the memory first.
 *
 * To drop pages waits while somebody's READ has one locked, as notify_store does (see
 * prefill.h), and nobody could end that wait: so it is not done where the file is open twice,
 * whose other reader may also want what this one has had; one thread may at a time; and none
 * when all is to end.  The kernel asks for the attributes anew after it.
 */
static struct pages pages_behind(const struct call *call)
{
    struct open_file *file = open_file_of(&call->fi);
    uint64_t offset = (uint64_t)call->offset;
    uint64_t from = atomic_load(&file->dropped);
    if (offset < from) /* it is read again */
        atomic_store(&file->dropped, from = offset);
    if (from < KEPT_BYTES)
        from = KEPT_BYTES;
    if (offset < from + DROP_BYTES + KEPT_BEHIND_BYTES ||
        atomic_load(&call->node->open_count) != 1 || cancel_is_raised(call->front->stop) ||
        atomic_flag_test_and_set(&is_dropping))
        return (struct pages){0};
    uint64_t to = (offset - KEPT_BEHIND_BYTES) / DROP_BYTES * DROP_BYTES;
    atomic_store(&file->dropped, to);
    return (struct pages){.from = from, .to = to};
}

static void drop_pages(const struct call *call, struct pages pages)
{
    if (pages.from == pages.to)
        return;
    (void)fuse_lowlevel_notify_inval_inode(call->front->session, call->node->ino, (off_t)pages.from,
                                           (off_t)(pages.to - pages.from));
    atomic_flag_clear(&is_dropping);
}

static void run_read(struct call *call)
{
    cleanup_free char *data = malloc(call->size);
    ssize_t n = data ? node_read(call->node, handle_of(&call->fi), &call->request, data, call->size,
                                 (uint64_t)call->offset)
                     : -ENOMEM;
    struct pages pages = {0};
    if (n > 0) /* now: the file may be closed after the reply */
        pages = pages_behind(call);
    call_quiet(call);
    if (n < 0)
        (void)fuse_reply_err(call->req, (int)-n);
    else
        (void)fuse_reply_buf(call->req, data, (size_t)n);
    drop_pages(call, pages);
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
    call_dispatch(&call, NODE_WAITS_READ);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    ssize_t n = node_write(call.node, handle_of(fi), data, size, (uint64_t)offset);
    if (n < 0)
        call_fail(&call, (int)n);
    else
        (void)fuse_reply_write(req, (size_t)n);
    call_done(&call);
}

static void run_flush(struct call *call)
{
    call_fail(call, node_flush(call->node, handle_of(&call->fi), &call->request));
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_flush))
        return;
    call.fi = *fi;
    call_dispatch(&call, NODE_WAITS_FLUSH);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)data_only;
    op_flush(req, ino, fi);
}

static void run_lseek(struct call *call)
{
    int64_t at = node_seek(call->node, handle_of(&call->fi), &call->request, (uint64_t)call->offset,
                           (int)call->flags);
    call_quiet(call);
    if (at < 0)
        (void)fuse_reply_err(call->req, (int)-at);
    else
        (void)fuse_reply_lseek(call->req, at);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    struct call call;
    if (!call_init(&call, req, ino, run_lseek))
        return;
    call.fi = *fi;
    call.offset = offset;
    call.flags = (unsigned)whence;
    call_dispatch(&call, NODE_WAITS_READ);
}

/* So much at a time, that an interrupt is heeded soon. */
#define COPY_MAX_BYTES ((size_t)32 << 20)
#define COPY_PIECE_BYTES ((size_t)1 << 20)

/* Copies up to len bytes: how many, or why not even one. */
static ssize_t copy_range(struct call *call, struct node *to, struct handle *to_handle,
                          uint64_t to_offset, size_t len)
{
    cleanup_free char *piece = malloc(COPY_PIECE_BYTES);
    size_t done = 0;
    ssize_t n = piece ? 1 : -ENOMEM;
    while (n > 0 && done < len) {
        size_t want = len - done < COPY_PIECE_BYTES ? len - done : COPY_PIECE_BYTES;
        n = node_read(call->node, handle_of(&call->fi), &call->request, piece, want,
                      (uint64_t)call->offset + done);
        if (n > 0)
            n = node_write(to, to_handle, piece, (size_t)n, to_offset + done);
        if (n > 0)
            done += (size_t)n;
        if (cancel_is_raised(call->request.cancel))
            break;
    }
    return done > 0 ? (ssize_t)done : n;
}

static void run_copy(struct call *call)
{
    struct node *to cleanup_node = inode_table_get(call->front->inodes, call->to_ino);
    size_t len = call->size < COPY_MAX_BYTES ? call->size : COPY_MAX_BYTES;
    ssize_t n = to ? copy_range(call, to, handle_of(&call->to_fi), (uint64_t)call->to_offset, len)
                   : -ESTALE;
    call_quiet(call);
    if (n < 0)
        (void)fuse_reply_err(call->req, (int)-n);
    else
        (void)fuse_reply_write(call->req, (size_t)n);
}

/* From one file of the mount to another, without a detour through the program that copies. */
static void op_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t offset,
                               struct fuse_file_info *fi, fuse_ino_t to_ino, off_t to_offset,
                               struct fuse_file_info *to_fi, size_t len, int flags)
{
    (void)flags;
    struct call call;
    if (!call_init(&call, req, ino, run_copy))
        return;
    call.fi = *fi;
    call.offset = offset;
    call.size = len;
    call.to_ino = to_ino;
    call.to_offset = to_offset;
    call.to_fi = *to_fi;
    call_dispatch_waiting(&call);
}

static void run_readlink(struct call *call)
{
    struct buf target cleanup_buf;
    buf_init(&target, 4096);
    int r = node_readlink(call->node, &call->request, &target);
    call_quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else
        (void)fuse_reply_readlink(call->req, buf_string(&target));
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct call call;
    if (call_init(&call, req, ino, run_readlink))
        call_dispatch(&call, NODE_WAITS_LOOKUP);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct front *front = fuse_req_userdata(req);
    (void)ino;
    open_files_close(front->open_files, open_file_of(fi));
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

/* ---- extended attributes --------------------------------------------------------------- */

/* Values and lists of names; the kernel takes no more (limits.h, XATTR_SIZE_MAX). */
#define XATTR_ANSWER_MAX_BYTES 65536

/* The kernel first asks for the size, with room for nothing. */
static void reply_xattr(struct call *call, int r, const struct buf *answer)
{
    call_quiet(call);
    if (r < 0)
        (void)fuse_reply_err(call->req, -r);
    else if (call->size == 0)
        (void)fuse_reply_xattr(call->req, answer->len);
    else if (answer->len > call->size)
        (void)fuse_reply_err(call->req, ERANGE);
    else
        (void)fuse_reply_buf(call->req, buf_string(answer), answer->len);
}

static void run_getxattr(struct call *call)
{
    struct buf value cleanup_buf;
    buf_init(&value, XATTR_ANSWER_MAX_BYTES);
    reply_xattr(call, node_get_xattr(call->node, &call->request, call->name, &value), &value);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct call call;
    if (!call_init(&call, req, ino, run_getxattr))
        return;
    if (call.node->ops->may_have_xattr && !call.node->ops->may_have_xattr(name)) {
        call_fail(&call, -ENODATA);
        call_done(&call);
        return;
    }
    call.size = size;
    call.name = strdup(name);
    if (call.name) {
        call_dispatch(&call, NODE_WAITS_LOOKUP);
        return;
    }
    call_fail(&call, -ENOMEM);
    call_done(&call);
}

static void run_listxattr(struct call *call)
{
    struct buf names cleanup_buf;
    buf_init(&names, XATTR_ANSWER_MAX_BYTES);
    reply_xattr(call, node_list_xattrs(call->node, &call->request, &names), &names);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct call call;
    if (!call_init(&call, req, ino, run_listxattr))
        return;
    call.size = size;
    call_dispatch(&call, NODE_WAITS_LOOKUP);
}

static void refuse_xattr(fuse_req_t req, fuse_ino_t ino)
{
    struct call call;
    if (!call_init(&call, req, ino, NULL))
        return;
    call_fail(&call, node_refuse(call.node, NULL, -ENOTSUP));
    call_done(&call);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    (void)name, (void)value, (void)size, (void)flags;
    refuse_xattr(req, ino);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    (void)name;
    refuse_xattr(req, ino);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    const struct front *front = userdata;
    /* An ACL may give a group less than the mode tells.  It costs a request for
     * each file of another owner, so not where only the owner of all may enter. */
    if (front->others_may_enter)
        conn->want |= conn->capable & FUSE_CAP_POSIX_ACL;
    /* Always: whoever lists a directory of data/ wants attributes next, and the
     * kernel's guess (AUTO) makes it ask for most of them one by one. */
    conn->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
    /* The kernel takes the lower of this and the mount's own: see mount.c. */
    conn->max_readahead = NODE_AHEAD_BYTES;
}

const struct fuse_lowlevel_ops ops_table = {
    .init = op_init,
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
    .lseek = op_lseek,
    .copy_file_range = op_copy_file_range,
    .readlink = op_readlink,
    .opendir = ops_opendir,
    .readdir = ops_readdir,
    .readdirplus = ops_readdirplus,
    .releasedir = ops_releasedir,
    .fsyncdir = op_fsyncdir,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
};
