/* SPDX-License-Identifier: MIT */
#include "job/now_archive.h"

#include "base/fd.h"
#include "job/ahead.h"
#include "job/squeeze.h"
#include "tar/vtar.h"

#include <assert.h>
#include <string.h>

/* Names of one file's attributes at once: one listxattr(2) gives no more. */
#define MAX_XATTRS 4096

struct now_archive {
    struct now_archive_info info;
    int fd;            /* of a spooled one, else -1 */
    uint64_t affected; /* of a compressed one, when it was made */

    /* Of a virtual one. */
    struct log *log;
    char *volume;
    char *name;
    bool waits_for_writes;
    struct contents *contents;
    struct ahead *ahead;
    struct layout *layout;
    struct vtar *vtar;
};

/* ---- where its files are ------------------------------------------------------------ */

static int source_open(void *data, const char *path, uint64_t dev, uint64_t ino,
                       struct cancel *cancel, void **ret_file, struct fail *why)
{
    struct now_archive *archive = data;
    struct contents_file *file;
    int r = ahead_open(archive->ahead, path, dev, ino, cancel, &file);
    if (r < 0)
        return fail_errno(why, -r, "%s", path);
    *ret_file = file;
    return 0;
}

static ssize_t source_read(void *data, void *file, void *buf, size_t len, uint64_t offset,
                           struct cancel *cancel, struct fail *why)
{
    const struct now_archive *archive = data;
    if (archive->waits_for_writes && len > CONTENTS_SMALL_BYTES) {
        int64_t at = contents_seek(file, offset, SEEK_DATA, cancel);
        (void)at; /* it is for the lock, which those who write have */
    }
    ssize_t n = contents_read(file, buf, len, offset, cancel);
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
    log_event(archive->log, "%s/snapshots/%s: while it was read, %s %s", archive->volume,
              archive->name, path, what);
}

static bool source_expect(void *data, const char *path, uint64_t dev, uint64_t ino,
                          uint64_t size_bytes)
{
    const struct now_archive *archive = data;
    return ahead_expect(archive->ahead, path, dev, ino, size_bytes);
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
    archive->ahead = ahead_new(archive->contents);
    if (!archive->ahead)
        return fail_errno(why, ENOMEM, "volume %s", archive->volume);
    archive->vtar = vtar_new(archive->layout, &(struct vtar_source){.open = source_open,
                                                                    .pread = source_read,
                                                                    .close = source_close,
                                                                    .affected = source_affected,
                                                                    .expect = source_expect,
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

static int fill_spool(struct now_archive *archive, const struct now_archive_conf *conf,
                      struct cancel *cancel, struct fail *why)
{
    archive->fd = spool_file(conf->spool, why);
    if (archive->fd < 0)
        return archive->fd;
    struct volumes_summary summary;
    int r = volumes_read(conf->volumes, archive->volume, archive->fd, cancel, &summary, why);
    if (r < 0)
        return r;
    if (summary.may_be_cut)
        log_event(archive->log,
                  "%s/snapshots/%s: paths of nearly 4096 bytes: what is deeper is missing",
                  archive->volume, archive->name);
    archive->info = (struct now_archive_info){
        .bytes = summary.bytes,
        .newest = {.tv_sec = summary.newest_s, .tv_nsec = summary.newest_ns}};
    return 0;
}

static struct now_archive *archive_new(const struct now_archive_conf *conf)
{
    struct now_archive *archive cleanup_now_archive = calloc(1, sizeof(*archive));
    if (!archive)
        return NULL;
    archive->fd = -1;
    archive->log = conf->log;
    archive->volume = strdup(conf->volume);
    archive->name = strdup(conf->name);
    return archive->volume && archive->name ? take(archive) : NULL;
}

int now_archive_of(struct contents *contents, const struct now_archive_conf *conf,
                   struct cancel *cancel, struct now_archive **ret_archive, struct fail *why)
{
    struct now_archive *archive cleanup_now_archive = archive_new(conf);
    if (!archive)
        return fail_errno(why, ENOMEM, "volume %s", conf->volume);
    archive->contents = contents_ref(contents);
    contents_hold(contents); /* a reader may pause for long */
    int r = lay_out(archive, cancel, why);
    if (r == 0)
        *ret_archive = take(archive);
    return r;
}

static int make_plain(const struct now_archive_conf *conf, struct cancel *cancel,
                      struct now_archive **ret_archive, struct fail *why)
{
    struct contents *contents cleanup_contents = NULL;
    int r = volumes_contents(conf->volumes, conf->volume, cancel, &contents, why);
    if (r == 0)
        return now_archive_of(contents, conf, cancel, ret_archive, why);
    if (r != -ENOTSUP)
        return r;
    struct now_archive *archive cleanup_now_archive = archive_new(conf);
    if (!archive)
        return fail_errno(why, ENOMEM, "volume %s", conf->volume);
    r = fill_spool(archive, conf, cancel, why);
    if (r == 0)
        *ret_archive = take(archive);
    return r;
}

/* What squeeze reads. */
static ssize_t read_plain(void *data, void *buf, size_t len, uint64_t offset, struct cancel *cancel,
                          struct fail *why)
{
    return now_archive_read(data, buf, len, offset, cancel, why);
}

static int compress(struct now_archive *plain, const struct now_archive_conf *conf,
                    struct cancel *cancel, struct now_archive **ret_archive, struct fail *why)
{
    struct now_archive *archive cleanup_now_archive = archive_new(conf);
    if (!archive)
        return fail_errno(why, ENOMEM, "volume %s", conf->volume);
    archive->fd = spool_file(conf->spool, why);
    if (archive->fd < 0)
        return archive->fd;
    struct job job cleanup_job;
    job_begin(&job, conf->jobs, "compress", conf->volume, conf->name);
    archive->info = now_archive_info(plain);
    job_set_total(&job, archive->info.bytes);
    int r = squeeze(&(struct squeeze_conf){.is_gzip = conf->format == NOW_TAR_GZ,
                                           .level = conf->level,
                                           .read = read_plain,
                                           .data = plain,
                                           .job = &job,
                                           .cancel = cancel,
                                           .fd = archive->fd},
                    &archive->info.bytes, why);
    archive->affected = now_archive_affected(plain);
    if (r == 0)
        *ret_archive = take(archive);
    return r;
}

int now_archive_make(const struct now_archive_conf *conf, struct cancel *cancel,
                     struct now_archive **ret_archive, struct fail *why)
{
    struct now_archive *plain cleanup_now_archive = NULL;
    int r = make_plain(conf, cancel, &plain, why);
    if (r < 0)
        return r;
    assert(plain);
    if (conf->format != NOW_TAR)
        return compress(plain, conf, cancel, ret_archive, why);
    *ret_archive = take(plain);
    return 0;
}

void now_archive_free(struct now_archive *archive)
{
    if (!archive)
        return;
    vtar_free(archive->vtar);
    ahead_free(archive->ahead);
    layout_free(archive->layout);
    if (archive->contents)
        contents_let_go(archive->contents);
    contents_unref(archive->contents);
    cleanup_close_impl(&archive->fd);
    free(archive->name);
    free(archive->volume);
    free(archive);
}

/* ---- reading it ------------------------------------------------------------------------ */

const char *now_format_name(enum now_format format)
{
    static const char *const names[] = {
        [NOW_TAR] = "now.tar", [NOW_TAR_GZ] = "now.tar.gz", [NOW_TAR_ZST] = "now.tar.zst"};
    return names[format];
}

struct now_archive_info now_archive_info(const struct now_archive *archive)
{
    return archive->info;
}

uint64_t now_archive_affected(const struct now_archive *archive)
{
    return archive->vtar ? vtar_affected(archive->vtar) : archive->affected;
}

ssize_t now_archive_read(struct now_archive *archive, void *data, size_t len, uint64_t offset,
                         struct cancel *cancel, struct fail *why)
{
    if (archive->vtar)
        return vtar_read(archive->vtar, data, len, offset, cancel, why);
    if (offset >= archive->info.bytes)
        return 0;
    if (len > archive->info.bytes - offset)
        len = (size_t)(archive->info.bytes - offset);
    ssize_t n = fd_pread_full(archive->fd, data, len, offset);
    /* Less than was written is not an end of file, it is a broken disk. */
    return n >= 0 && (size_t)n < len ? fail_set(why, EIO, "the spool file is cut short") : n;
}

/* ---- keeping it ------------------------------------------------------------------------- */

const struct layout *now_archive_layout(const struct now_archive *archive)
{
    return archive->layout;
}

int now_archive_fd(const struct now_archive *archive)
{
    return archive->fd;
}

bool now_archive_is_affected(const struct now_archive *archive, size_t index)
{
    return vtar_is_affected(archive->vtar, index);
}

bool now_archive_is_missing(const struct now_archive *archive, size_t index)
{
    return vtar_is_missing(archive->vtar, index);
}

void now_archive_note_given(struct now_archive *archive, size_t index)
{
    vtar_note_given(archive->vtar, index);
}

void now_archive_wait_for_writes(struct now_archive *archive)
{
    archive->waits_for_writes = true;
}
