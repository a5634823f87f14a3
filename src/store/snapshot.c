/* SPDX-License-Identifier: MIT */
#include "store/snapshot.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* Of the archive, behind a frame that is read. */
#define AHEAD_BYTES (2 << 20)

struct snapshot {
    atomic_int refs;
    int fd;
    uint64_t id;
    uint64_t owner; /* of its frames in the cache */
    struct seekable *seekable;
    struct index *index; /* NULL: bare */
    struct snapshot_cache *cache;
};

/* ---- opening ------------------------------------------------------------------ */

static int read_archive_table(struct snapshot *snapshot, uint64_t *ret_bytes, struct fail *why)
{
    struct stat st;
    if (fstat(snapshot->fd, &st) < 0)
        return fail_errno(why, errno, "cannot read the snapshot");
    int r = seekable_open(snapshot->fd, &snapshot->seekable, why);
    if (r < 0)
        return r == -ENODATA ? -EBADMSG : r;
    uint64_t told_by[2] = {(uint64_t)st.st_size, seekable_seal(snapshot->seekable)};
    snapshot->id = XXH3_64bits(told_by, sizeof(told_by));
    *ret_bytes = told_by[0];
    return 0;
}

/* Opens the index, which counts only if it is this archive's. */
static int open_index(struct snapshot *snapshot, const char *path, uint64_t archive_bytes,
                      struct fail *why)
{
    struct index_about about;
    int r = index_open(path, &snapshot->index, why);
    if (r < 0)
        return r;
    index_about(snapshot->index, &about);
    if (about.archive_bytes != archive_bytes || about.seal != seekable_seal(snapshot->seekable))
        return fail_set(why, ENODATA, "the index is that of another archive");
    return 0;
}

static int open_archive(int fd, const char *index_path, struct snapshot_cache *cache,
                        struct snapshot **ret_snapshot, struct fail *why)
{
    uint64_t archive_bytes = 0;
    int taken cleanup_close = fd;
    struct snapshot *snapshot cleanup_snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot)
        return -ENOMEM;
    atomic_init(&snapshot->refs, 1);
    snapshot->fd = take_fd(&taken);
    snapshot->cache = cache;
    snapshot->owner = snapshot_cache_owner(cache);
    int r = read_archive_table(snapshot, &archive_bytes, why);
    if (r == 0 && index_path)
        r = open_index(snapshot, index_path, archive_bytes, why);
    if (r < 0)
        return r;
    *ret_snapshot = take(snapshot);
    return 0;
}

int snapshot_open(int fd, const char *index_path, struct snapshot_cache *cache,
                  struct snapshot **ret_snapshot, struct fail *why)
{
    return open_archive(fd, index_path, cache, ret_snapshot, why);
}

int snapshot_open_bare(int fd, struct snapshot_cache *cache, struct snapshot **ret_snapshot,
                       struct fail *why)
{
    return open_archive(fd, NULL, cache, ret_snapshot, why);
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    (void)atomic_fetch_add(&snapshot->refs, 1);
    return snapshot;
}

void snapshot_unref(struct snapshot *snapshot)
{
    if (!snapshot || atomic_fetch_sub(&snapshot->refs, 1) != 1)
        return;
    snapshot_cache_forget(snapshot->cache, snapshot->owner);
    index_close(snapshot->index);
    seekable_close(snapshot->seekable);
    (void)close(snapshot->fd);
    free(snapshot);
}

uint64_t snapshot_id(const struct snapshot *snapshot)
{
    return snapshot->id;
}

void snapshot_about(const struct snapshot *snapshot, struct index_about *ret_about)
{
    index_about(snapshot->index, ret_about);
}

struct index *snapshot_index(struct snapshot *snapshot)
{
    return snapshot->index;
}

const struct seekable *snapshot_seekable(const struct snapshot *snapshot)
{
    return snapshot->seekable;
}

int snapshot_fd(const struct snapshot *snapshot)
{
    return snapshot->fd;
}

/* ---- the archive as it is decompressed -------------------------------------------- */

struct load {
    const struct snapshot *snapshot;
    size_t number;
    struct fail *why;
};

/* Whoever reads in order will want what follows: a hint, so that the disk is not
 * idle while a frame is decompressed. */
static void expect_after(const struct snapshot *snapshot, size_t number)
{
    struct seekable_frame frame;
    seekable_frame(snapshot->seekable, number, &frame);
    (void)posix_fadvise(snapshot->fd, (off_t)(frame.file_offset + frame.file_bytes), AHEAD_BYTES,
                        POSIX_FADV_WILLNEED);
}

static int load_frame(void *data, void *memory)
{
    const struct load *load = data;
    expect_after(load->snapshot, load->number);
    int r = seekable_read(load->snapshot->seekable, load->number, memory, load->why);
    return r == -EBADMSG || r == -EOVERFLOW ? -EIO : r;
}

/* As many bytes as the frame that holds the first one has, up to len. */
static ssize_t read_in_frame(struct snapshot *snapshot, void *out, size_t len, uint64_t offset,
                             struct fail *why)
{
    struct seekable_frame at;
    struct snapshot_frame *frame;
    struct load load = {snapshot, seekable_find(snapshot->seekable, offset), why};
    seekable_frame(snapshot->seekable, load.number, &at);
    int r = snapshot_cache_get(snapshot->cache, snapshot->owner, load.number, at.bytes, load_frame,
                               &load, &frame);
    if (r < 0)
        return r;
    size_t from = (size_t)(offset - at.offset);
    size_t n = at.bytes - from < len ? at.bytes - from : len;
    memcpy(out, (const char *)snapshot_frame_data(frame) + from, n);
    snapshot_cache_put(snapshot->cache, frame);
    return (ssize_t)n;
}

ssize_t snapshot_read_archive(struct snapshot *snapshot, void *data, size_t len, uint64_t offset,
                              struct fail *why)
{
    uint64_t total = seekable_total_bytes(snapshot->seekable);
    size_t done = 0;
    while (done < len && offset < total) {
        ssize_t n = read_in_frame(snapshot, (char *)data + done, len - done, offset, why);
        if (n < 0)
            return n;
        done += (size_t)n;
        offset += (uint64_t)n;
    }
    return (ssize_t)done;
}

/* ---- files --------------------------------------------------------------------- */

/* The runs as they stand one behind the other from the entry's offset on, within the
 * archive's `total` bytes. */
static int fill_runs(struct snapshot_run *runs, const struct index_entry *entry, uint64_t total)
{
    const struct file *file = &entry->file;
    struct file_extent all = {.offset = 0, .bytes = file->stat.size_bytes};
    uint64_t at = entry->offset;
    size_t count = file->is_sparse ? file->extent_count : all.bytes > 0;
    for (size_t i = 0; i < count; i++) {
        struct file_extent extent = file->is_sparse ? file_extent_at(file, i) : all;
        if (at > total || extent.bytes > total - at)
            return -EBADMSG;
        runs[i] = (struct snapshot_run){extent.offset, extent.bytes, at};
        at += extent.bytes;
    }
    return 0;
}

int snapshot_file_open(struct snapshot *snapshot, const struct index_entry *entry,
                       struct snapshot_file *ret_file, struct fail *why)
{
    const struct file *file = &entry->file;
    if (S_ISDIR(file->stat.mode))
        return fail_set(why, EISDIR, "it is a directory");
    if (!S_ISREG(file->stat.mode))
        return fail_set(why, EINVAL, "it is no regular file");
    size_t count = file->is_sparse ? file->extent_count : file->stat.size_bytes > 0;
    cleanup_free struct snapshot_run *runs = calloc(count + 1, sizeof(*runs));
    if (!runs)
        return -ENOMEM;
    if (fill_runs(runs, entry, seekable_total_bytes(snapshot->seekable)) < 0)
        return fail_set(why, EBADMSG, "the index is damaged");
    *ret_file = (struct snapshot_file){
        .size_bytes = file->stat.size_bytes,
        .runs = take(runs),
        .run_count = count,
    };
    return 0;
}

void snapshot_file_done(struct snapshot_file *file)
{
    free(file->runs);
    *file = (struct snapshot_file){0};
}

/* The index of the first run that ends behind the offset; run_count where none does. */
static size_t find_run(const struct snapshot_file *file, uint64_t offset)
{
    size_t low = 0;
    size_t high = file->run_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct snapshot_run *run = &file->runs[middle];
        if (run->offset + run->bytes > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static size_t at_most(uint64_t bytes, size_t len)
{
    return bytes < len ? (size_t)bytes : len;
}

/* A piece that lies in one run or one hole; the offset is within the file. */
static ssize_t read_piece(struct snapshot *snapshot, const struct snapshot_file *file, void *data,
                          size_t len, uint64_t offset, struct fail *why)
{
    size_t i = find_run(file, offset);
    const struct snapshot_run *run = i < file->run_count ? &file->runs[i] : NULL;
    if (run && run->offset <= offset) {
        uint64_t from = offset - run->offset;
        return snapshot_read_archive(snapshot, data, at_most(run->bytes - from, len),
                                     run->archive_offset + from, why);
    }
    size_t hole = at_most((run ? run->offset : file->size_bytes) - offset, len);
    memset(data, 0, hole);
    return (ssize_t)hole;
}

ssize_t snapshot_read(struct snapshot *snapshot, const struct snapshot_file *file, void *data,
                      size_t len, uint64_t offset, struct fail *why)
{
    size_t done = 0;
    if (offset >= file->size_bytes)
        return 0;
    len = at_most(file->size_bytes - offset, len);
    while (done < len) {
        ssize_t n = read_piece(snapshot, file, (char *)data + done, len - done, offset + done, why);
        if (n <= 0)
            return n < 0 ? n : -EIO;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Where the hole behind offset begins: runs may touch each other. */
static uint64_t find_hole(const struct snapshot_file *file, uint64_t offset)
{
    for (size_t i = find_run(file, offset); i < file->run_count; i++) {
        if (file->runs[i].offset > offset)
            break;
        offset = file->runs[i].offset + file->runs[i].bytes;
    }
    return offset;
}

int64_t snapshot_seek(const struct snapshot_file *file, uint64_t offset, int whence)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (offset >= file->size_bytes)
        return -ENXIO;
    if (whence == SEEK_HOLE)
        return (int64_t)find_hole(file, offset);
    size_t i = find_run(file, offset);
    if (i == file->run_count)
        return -ENXIO;
    return (int64_t)(file->runs[i].offset > offset ? file->runs[i].offset : offset);
}
