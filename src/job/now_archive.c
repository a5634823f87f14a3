/* SPDX-License-Identifier: MIT */
#include "job/now_archive.h"

#include "base/fd.h"
#include "tar/vtar.h"

#include <string.h>

/* Names of one file's attributes at once: one listxattr(2) gives no more. */
#define MAX_XATTRS 4096

struct now_archive {
    struct now_archive_info info;
    int fd; /* of a spooled one, else -1 */

    /* Of a virtual one. */
    struct log *log;
    char *volume;
    struct contents *contents;
    struct layout *layout;
    struct vtar *vtar;
};

/* ---- where its files are ------------------------------------------------------------ */

static int source_open(void *data, const char *path, uint64_t dev, uint64_t ino, void **ret_file,
                       struct fail *why)
{
    struct now_archive *archive = data;
    struct contents_file *file;
    int r = contents_open(archive->contents, path, dev, ino, NULL, &file);
    if (r < 0)
        return fail_errno(why, -r, "%s", path);
    *ret_file = file;
    return 0;
}

static ssize_t source_read(void *data, void *file, void *buf, size_t len, uint64_t offset,
                           struct fail *why)
{
    (void)data;
    ssize_t n = contents_read(file, buf, len, offset, NULL);
    return n < 0 ? fail_errno(why, (int)-n, "reading") : n;
}

static void source_close(void *data, void *file)
{
    (void)data;
    contents_close(file);
}

static void source_affected(void *data, const char *path, const char *what)
{
    struct now_archive *archive = data;
    log_event(archive->log, "%s/snapshots/now.tar: while it was read, %s %s", archive->volume, path,
              what);
}

/* ---- laying it out ------------------------------------------------------------------- */

/* An entry whose arrays are made for one call. */
struct scratch {
    struct tar_entry entry;
    struct buf extents;
    struct buf xattrs;
};

static int add_xattrs(const struct file *file, struct scratch *scratch)
{
    size_t position = 0, value_bytes;
    const char *name;
    const void *value;
    int r = 0;
    while (r == 0 && file_xattr_next(file, &position, &name, &value, &value_bytes)) {
        struct tar_xattr xattr = {
            .name = (char *)name, .value = (void *)value, .value_bytes = value_bytes};
        r = buf_add(&scratch->xattrs, &xattr, sizeof(xattr));
    }
    scratch->entry.xattrs = (struct tar_xattr *)(void *)scratch->xattrs.data;
    scratch->entry.xattr_count = scratch->xattrs.len / sizeof(struct tar_xattr);
    return r;
}

static int add_extents(const struct file *file, struct scratch *scratch)
{
    int r = 0;
    for (size_t i = 0; i < file->extent_count && r == 0; i++) {
        struct file_extent from = file_extent_at(file, i);
        struct tar_extent extent = {.offset = from.offset, .bytes = from.bytes};
        r = buf_add(&scratch->extents, &extent, sizeof(extent));
    }
    if (r == 0 && !scratch->extents.data) /* all hole: no run, but not all data either */
        r = buf_add(&scratch->extents, "", 0);
    scratch->entry.extents = (struct tar_extent *)(void *)scratch->extents.data;
    scratch->entry.extent_count = file->extent_count;
    return r;
}

static int fill_entry(const struct file *file, struct scratch *scratch)
{
    const struct file_stat *st = &file->stat;
    scratch->entry = (struct tar_entry){
        .name = (char *)file->name,
        .link_target = S_ISLNK(st->mode) ? (char *)file->link_target : NULL,
        .mode = st->mode,
        .uid = st->uid,
        .gid = st->gid,
        .mtime_s = st->mtime.s,
        .mtime_ns = st->mtime.ns,
        .size_bytes = S_ISREG(st->mode) ? st->size_bytes : 0,
        .dev_major = st->rdev_major,
        .dev_minor = st->rdev_minor,
    };
    int r = add_xattrs(file, scratch);
    return r == 0 && file->is_sparse ? add_extents(file, scratch) : r;
}

/* contents_fn */
static int add_file(void *data, const struct file *file)
{
    struct layout *layout = data;
    const struct file_stat *st = &file->stat;
    struct scratch scratch;
    buf_init(&scratch.extents, FILE_MAX_EXTENTS * sizeof(struct tar_extent));
    buf_init(&scratch.xattrs, MAX_XATTRS * sizeof(struct tar_xattr));
    int r = fill_entry(file, &scratch);
    if (r == 0)
        r = layout_add(layout, &scratch.entry,
                       &(struct layout_identity){.dev = st->dev,
                                                 .ino = file_identity(st),
                                                 .nlink = st->nlink,
                                                 .ctime_s = st->ctime.s,
                                                 .ctime_ns = st->ctime.ns});
    buf_done(&scratch.extents);
    buf_done(&scratch.xattrs);
    return r;
}

static int lay_out(struct now_archive *archive, struct cancel *cancel, struct fail *why)
{
    archive->layout = layout_new();
    if (!archive->layout)
        return fail_errno(why, ENOMEM, "volume %s", archive->volume);
    int r = contents_walk(archive->contents, cancel, add_file, archive->layout, why);
    if (r < 0)
        return fail_prefix(why, r, "volume %s", archive->volume);
    layout_finish(archive->layout);
    archive->vtar = vtar_new(archive->layout, &(struct vtar_source){.open = source_open,
                                                                    .pread = source_read,
                                                                    .close = source_close,
                                                                    .affected = source_affected,
                                                                    .data = archive});
    if (!archive->vtar)
        return fail_errno(why, ENOMEM, "volume %s", archive->volume);
    int64_t newest_s;
    uint32_t newest_ns;
    layout_newest(archive->layout, &newest_s, &newest_ns);
    archive->info = (struct now_archive_info){.bytes = layout_bytes(archive->layout),
                                              .newest = {.tv_sec = newest_s, .tv_nsec = newest_ns}};
    return 0;
}

static int fill_spool(struct now_archive *archive, struct volumes *volumes, struct spool *spool,
                      struct cancel *cancel, struct fail *why)
{
    archive->fd = spool_file(spool, why);
    if (archive->fd < 0)
        return archive->fd;
    struct volumes_summary summary;
    int r = volumes_read(volumes, archive->volume, archive->fd, cancel, &summary, why);
    if (r < 0)
        return r;
    if (summary.may_be_cut)
        log_event(archive->log,
                  "%s/snapshots/now.tar: paths of nearly 4096 bytes: what is deeper is missing",
                  archive->volume);
    archive->info = (struct now_archive_info){
        .bytes = summary.bytes,
        .newest = {.tv_sec = summary.newest_s, .tv_nsec = summary.newest_ns}};
    return 0;
}

int now_archive_make(struct volumes *volumes, struct spool *spool, struct log *log,
                     const char *volume, struct cancel *cancel, struct now_archive **ret_archive,
                     struct fail *why)
{
    struct now_archive *archive cleanup_now_archive = calloc(1, sizeof(*archive));
    if (!archive)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    archive->fd = -1;
    archive->log = log;
    archive->volume = strdup(volume);
    if (!archive->volume)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    int r = volumes_contents(volumes, volume, cancel, &archive->contents, why);
    if (r == 0)
        r = lay_out(archive, cancel, why);
    else if (r == -ENOTSUP)
        r = fill_spool(archive, volumes, spool, cancel, why);
    if (r < 0)
        return r;
    *ret_archive = take(archive);
    return 0;
}

void now_archive_free(struct now_archive *archive)
{
    if (!archive)
        return;
    vtar_free(archive->vtar);
    layout_free(archive->layout);
    contents_unref(archive->contents);
    cleanup_close_impl(&archive->fd);
    free(archive->volume);
    free(archive);
}

/* ---- reading it ------------------------------------------------------------------------ */

struct now_archive_info now_archive_info(const struct now_archive *archive)
{
    return archive->info;
}

uint64_t now_archive_affected(const struct now_archive *archive)
{
    return archive->vtar ? vtar_affected(archive->vtar) : 0;
}

ssize_t now_archive_read(struct now_archive *archive, void *data, size_t len, uint64_t offset,
                         struct fail *why)
{
    if (archive->vtar)
        return vtar_read(archive->vtar, data, len, offset, why);
    if (offset >= archive->info.bytes)
        return 0;
    if (len > archive->info.bytes - offset)
        len = (size_t)(archive->info.bytes - offset);
    ssize_t n = fd_pread_full(archive->fd, data, len, offset);
    /* Less than was written is not an end of file, it is a broken disk. */
    return n >= 0 && (size_t)n < len ? fail_set(why, EIO, "the spool file is cut short") : n;
}
