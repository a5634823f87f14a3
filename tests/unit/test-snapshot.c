/* SPDX-License-Identifier: MIT */
#include "scratch.h"

#include "base/fd.h"
#include "store/codec.h"
#include "store/compress.h"
#include "store/snapshot.h"
#include "tar/header.h"

#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILES_MAX 200
#define EXTENTS_MAX 40
#define FILE_MAX_BYTES 300000
#define PLAIN_MAX_BYTES ((size_t)256 << 20)
#define CACHE_BYTES ((size_t)1 << 20)
#define FRAME_MAX_BYTES ((size_t)100000)

static uint64_t random_next(uint64_t *random, uint64_t bound)
{
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*random >> 20) % bound;
}

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t bound)
{
    return random_next(&random_state, bound);
}

/* ---- an archive of our own making ------------------------------------------------------ */

/* A file as it should be read. */
struct model {
    char path[64];
    uint64_t parent;
    uint64_t target;
    uint32_t mode;
    char *data; /* of a regular file, holes as zeros */
    size_t bytes;
    bool is_sparse;
    struct file_extent extents[EXTENTS_MAX];
    size_t extent_count;
    uint64_t offset;
    uint64_t end; /* of the stored data */
};

struct archive {
    struct model files[FILES_MAX];
    size_t count;
    struct buf plain;
    /* While it is compressed: */
    size_t done;
    struct seekable_writer *writer;
};

static void archive_done(struct archive *archive)
{
    for (size_t i = 0; i < archive->count; i++)
        if (archive->files[i].target == i)
            free(archive->files[i].data);
    buf_done(&archive->plain);
    free(archive);
}

static void add_bytes(struct archive *archive, const void *data, size_t bytes)
{
    assert_int_equal(buf_add(&archive->plain, data, bytes), 0);
}

static void pad(struct archive *archive)
{
    assert_int_equal(buf_add_zeros(&archive->plain, tar_padding_bytes(archive->plain.len)), 0);
}

static void make_data(struct model *file)
{
    file->bytes = random_below(10) ? random_below(20000) : random_below(FILE_MAX_BYTES);
    file->data = calloc(1, file->bytes + 1);
    assert_non_null(file->data);
    for (size_t i = 0; i < file->bytes; i++)
        file->data[i] = (char)(random_below(5) ? i / 50 : 1 + random_below(255));
}

/* Makes runs of whole blocks, which may touch, and zeros of what is not in them. */
static void make_holes(struct model *file)
{
    size_t at = 0;
    file->is_sparse = true;
    for (size_t i = 0; i < EXTENTS_MAX && random_below(8); i++) {
        size_t hole = 512 * random_below(20);
        size_t run = 512 * (1 + random_below(20));
        if (at + hole + run > file->bytes)
            break;
        memset(file->data + at, 0, hole);
        file->extents[file->extent_count++] = (struct file_extent){at + hole, run};
        at += hole + run;
    }
    memset(file->data + at, 0, file->bytes - at);
}

/* GNU's map of a sparse file, format 1.0. */
static void make_map(const struct model *file, struct buf *map)
{
    buf_init(map, 1 << 20);
    assert_int_equal(buf_printf(map, "%zu\n", file->extent_count + 1), 0);
    for (size_t i = 0; i < file->extent_count; i++)
        assert_int_equal(buf_printf(map, "%" PRIu64 "\n%" PRIu64 "\n", file->extents[i].offset,
                                    file->extents[i].bytes),
                         0);
    assert_int_equal(buf_printf(map, "%zu\n0\n", file->bytes), 0);
    assert_int_equal(buf_add_zeros(map, tar_padding_bytes(map->len)), 0);
}

static void put_sparse(struct archive *archive, struct model *file, const struct tar_entry *entry)
{
    struct buf map cleanup_buf;
    make_map(file, &map);
    uint64_t stored = map.len;
    for (size_t i = 0; i < file->extent_count; i++)
        stored += file->extents[i].bytes;
    assert_int_equal(tar_header_write_stored(&archive->plain, entry, stored), 0);
    add_bytes(archive, map.data, map.len);
    file->offset = archive->plain.len;
    for (size_t i = 0; i < file->extent_count; i++)
        add_bytes(archive, file->data + file->extents[i].offset, file->extents[i].bytes);
}

static void put_file(struct archive *archive, struct model *file, const struct tar_entry *entry)
{
    if (file->is_sparse) {
        put_sparse(archive, file, entry);
    } else {
        assert_int_equal(tar_header_write(&archive->plain, "./", entry), 0);
        file->offset = archive->plain.len;
        if (S_ISREG(file->mode) && !entry->is_hard_link)
            add_bytes(archive, file->data, file->bytes);
    }
    file->end = archive->plain.len;
    pad(archive);
}

static void add_file(struct archive *archive, uint64_t parent, uint32_t mode)
{
    static struct tar_extent is_sparse;
    size_t i = archive->count++;
    struct model *file = &archive->files[i];
    char dir[sizeof(file->path)];
    memcpy(dir, archive->files[parent].path, sizeof(dir));
    *file = (struct model){.parent = parent, .target = i, .mode = mode};
    if (i > 0)
        (void)snprintf(file->path, sizeof(file->path), "%.40s%sf%03zu", dir, dir[0] ? "/" : "", i);
    size_t other = i ? random_below(i) : 0;
    struct tar_entry entry = {.name = file->path, .mode = mode, .mtime_s = 1700000000};
    if (S_ISREG(mode) && random_below(8) == 0 && S_ISREG(archive->files[other].mode)) {
        uint64_t target = archive->files[other].target;
        *file = archive->files[target];
        (void)snprintf(file->path, sizeof(file->path), "f%03zu", i);
        file->parent = 0;
        entry.is_hard_link = true;
        entry.link_target = archive->files[target].path;
        struct model *first = &archive->files[target];
        uint64_t offset = first->offset;
        uint64_t end = first->end;
        assert_int_equal(tar_header_write(&archive->plain, "./", &entry), 0);
        file->offset = offset;
        file->end = end;
        return;
    }
    if (S_ISREG(mode)) {
        make_data(file);
        if (random_below(4) == 0)
            make_holes(file);
        entry.size_bytes = file->bytes;
        entry.extents = file->is_sparse ? &is_sparse : NULL;
    }
    put_file(archive, file, &entry);
}

static struct archive *make_archive(size_t count)
{
    struct archive *archive = calloc(1, sizeof(*archive));
    uint64_t dir = 0;
    assert_non_null(archive);
    buf_init(&archive->plain, PLAIN_MAX_BYTES);
    add_file(archive, 0, S_IFDIR | 0755);
    while (archive->count < count) {
        uint64_t kind = random_below(12);
        if (kind == 0 && strlen(archive->files[dir].path) < 30) {
            add_file(archive, dir, S_IFDIR | 0700);
            dir = archive->count - 1;
        } else if (kind == 1) {
            dir = archive->files[dir].parent;
        } else {
            add_file(archive, dir, kind == 2 ? S_IFIFO | 0600 : S_IFREG | 0644);
        }
    }
    assert_int_equal(buf_add_zeros(&archive->plain, TAR_END_BYTES), 0);
    return archive;
}

static int produce(void *data, struct compress_chunk *chunk, struct fail *why)
{
    struct archive *archive = data;
    (void)why;
    size_t left = archive->plain.len - archive->done;
    size_t bytes = 1 + random_below(FRAME_MAX_BYTES);
    chunk->bytes = bytes < left ? bytes : left;
    memcpy(chunk->data, archive->plain.data + archive->done, chunk->bytes);
    archive->done += chunk->bytes;
    return left > 0;
}

static int consume(void *data, const struct compress_frame *frame, struct fail *why)
{
    struct archive *archive = data;
    return seekable_add_frame(archive->writer, frame->data, (uint32_t)frame->bytes,
                              (uint32_t)frame->chunk_bytes, frame->checksum, why);
}

/* Makes the archive a file, cut anywhere. */
static void write_archive(struct archive *archive, const char *path, uint8_t sha256[32])
{
    int fd cleanup_close = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    struct compress_conf conf = {.codec = &codec_zstd,
                                 .level = 3,
                                 .threads = 2,
                                 .chunk_max_bytes = FRAME_MAX_BYTES,
                                 .produce = produce,
                                 .consume = consume,
                                 .data = archive};
    archive->done = 0;
    archive->writer = seekable_writer_new(fd, random_below(2) ? 4096 : 0);
    assert_non_null(archive->writer);
    assert_int_equal(compress_run(&conf, NULL), 0);
    assert_int_equal(seekable_finish(archive->writer, sha256, NULL), 0);
    seekable_writer_free(take(archive->writer));
}

static void add_to_index(struct index_writer *writer, const struct archive *archive, uint64_t id)
{
    const struct model *file = &archive->files[id];
    const char *slash = strrchr(file->path, '/');
    struct index_entry entry = {
        .id = id, .parent = file->parent, .target = file->target, .offset = file->offset};
    entry.file = (struct file){.name = slash ? slash + 1 : file->path,
                               .link_target = "",
                               .xattrs = "",
                               .extents = "",
                               .extent_count = file->extent_count,
                               .is_sparse = file->is_sparse};
    entry.file.stat.mode = file->mode;
    entry.file.stat.size_bytes = file->bytes;
    assert_int_equal(index_add(writer, &entry, file->extents, NULL), 0);
}

/* With so much added to what tells which archive it is of. */
static void write_index(const struct archive *archive, const char *archive_path, const char *path,
                        const uint8_t sha256[32], uint64_t more_bytes, uint64_t more_seal)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct index_writer *writer cleanup_index_writer = NULL;
    struct index_about about = {.taken_s = 7, .consistency = "live"};
    struct stat st;
    int fd cleanup_close = open(archive_path, O_RDONLY | O_CLOEXEC);
    int index_fd cleanup_close = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && index_fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(seekable_open(fd, &seekable, NULL), 0);
    about.archive_bytes = (uint64_t)st.st_size + more_bytes;
    about.seal = seekable_seal(seekable) + more_seal;
    memcpy(about.sha256, sha256, sizeof(about.sha256));
    assert_int_equal(index_writer_new(path, &writer, NULL), 0);
    for (uint64_t id = 0; id < archive->count; id++)
        add_to_index(writer, archive, id);
    assert_int_equal(index_finish(writer, &about, NULL), 0);
}

/* NAME.tar.zst and NAME.index in the test's directory. */
static struct archive *make_snapshot(const char *name, size_t count)
{
    char archive_path[64];
    char index_path[64];
    uint8_t sha256[32];
    struct archive *archive = make_archive(count);
    (void)snprintf(archive_path, sizeof(archive_path), "%s.tar.zst", name);
    (void)snprintf(index_path, sizeof(index_path), "%s.index", name);
    write_archive(archive, archive_path, sha256);
    write_index(archive, archive_path, index_path, sha256, 0, 0);
    return archive;
}

static int try_open(const char *archive, const char *index, struct snapshot_cache *cache,
                    struct snapshot **ret_snapshot, struct fail *why)
{
    int fd = open(archive, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    int r = index ? snapshot_open(fd, index, cache, ret_snapshot, why)
                  : snapshot_open_bare(fd, cache, ret_snapshot, why);
    if (r < 0)
        assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken */
    return r;
}

static struct snapshot *must_open(const char *name, struct snapshot_cache *cache)
{
    char archive_path[64];
    char index_path[64];
    struct fail why = FAIL_INIT;
    struct snapshot *snapshot = NULL;
    (void)snprintf(archive_path, sizeof(archive_path), "%s.tar.zst", name);
    (void)snprintf(index_path, sizeof(index_path), "%s.index", name);
    int r = try_open(archive_path, index_path, cache, &snapshot, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
    return snapshot;
}

/* ---- reading it ------------------------------------------------------------------ */

struct opening {
    struct snapshot *snapshot;
    struct snapshot_file *file;
};

static int open_entry(void *data, const struct index_entry *entry)
{
    struct opening *opening = data;
    return snapshot_file_open(opening->snapshot, entry, opening->file, NULL);
}

static int open_file(struct snapshot *snapshot, uint64_t id, struct snapshot_file *file)
{
    struct opening opening = {snapshot, file};
    return index_get(snapshot_index(snapshot), id, open_entry, &opening, NULL);
}

/* Reads a piece of a file and compares: 0, or the error. */
static int compare_piece(struct snapshot *snapshot, const struct snapshot_file *file,
                         const struct model *model, uint64_t offset, size_t len)
{
    struct fail why = FAIL_INIT;
    cleanup_free char *data = malloc(len + 1);
    if (!data)
        return -ENOMEM;
    ssize_t n = snapshot_read(snapshot, file, data, len, offset, &why);
    if (n < 0)
        return why.text[0] ? (int)n : -ENOMSG;
    size_t left = offset < model->bytes ? model->bytes - offset : 0;
    if ((size_t)n != (len < left ? len : left))
        return -ERANGE;
    return n == 0 || memcmp(data, model->data + offset, (size_t)n) == 0 ? 0 : -EILSEQ;
}

/* A whole file, in random pieces, and where its data and holes are. */
static int compare_file(struct snapshot *snapshot, const struct archive *archive, uint64_t id)
{
    const struct model *model = &archive->files[id];
    struct snapshot_file file cleanup_snapshot_file = {0};
    int r = open_file(snapshot, id, &file);
    if (r == 0)
        r = compare_piece(snapshot, &file, model, 0, model->bytes + 100);
    for (int i = 0; r == 0 && i < 10; i++)
        r = compare_piece(snapshot, &file, model, random_below(model->bytes + 10),
                          random_below(model->bytes + 10));
    return r;
}

static void compare_all(struct snapshot *snapshot, const struct archive *archive)
{
    for (uint64_t id = 0; id < archive->count; id++) {
        struct snapshot_file file;
        uint32_t mode = archive->files[id].mode;
        if (S_ISREG(mode))
            assert_int_equal(compare_file(snapshot, archive, id), 0);
        else
            assert_int_equal(open_file(snapshot, id, &file), S_ISDIR(mode) ? -EISDIR : -EINVAL);
    }
}

static void browse_equals(void **state)
{
    (void)state;
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    for (int i = 0; i < 8; i++) {
        struct archive *archive = make_snapshot("browse", 2 + random_below(FILES_MAX - 2));
        struct snapshot *snapshot = must_open("browse", cache);
        struct index_about about;
        snapshot_about(snapshot, &about);
        assert_int_equal(about.entries, archive->count);
        assert_int_equal(about.taken_s, 7);
        compare_all(snapshot, archive);
        assert_true(snapshot_cache_bytes(cache) <= CACHE_BYTES);
        snapshot_unref(snapshot);
        assert_int_equal(snapshot_cache_bytes(cache), 0);
        archive_done(archive);
    }
    snapshot_cache_free(cache);
}

/* What zstd(1) and tar(1) make of the same file. */
static void equals_tar(void **state)
{
    (void)state;
    struct archive *archive = make_snapshot("by-tar", FILES_MAX);
    assert_int_equal(try_shell("mkdir out && zstd -dcq by-tar.tar.zst | tar -x -C out -f -"), 0);
    for (size_t i = 0; i < archive->count; i++) {
        const struct model *model = &archive->files[i];
        char path[80];
        cleanup_free char *data = malloc(model->bytes + 1);
        assert_non_null(data);
        if (!S_ISREG(model->mode))
            continue;
        (void)snprintf(path, sizeof(path), "out/%s", model->path);
        int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fd_pread_full(fd, data, model->bytes + 1, 0), model->bytes);
        assert_memory_equal(data, model->data, model->bytes);
    }
    archive_done(archive);
}

static void read_archive(void **state)
{
    (void)state;
    struct archive *archive = make_snapshot("bare", 80);
    struct snapshot_cache *cache = snapshot_cache_new(0);
    struct snapshot *snapshot cleanup_snapshot = NULL;
    cleanup_free char *data = malloc(archive->plain.len + 1);
    assert_non_null(data);
    assert_int_equal(unlink("bare.index"), 0);
    assert_int_equal(try_open("bare.tar.zst", "bare.index", cache, &snapshot, NULL), -ENODATA);
    assert_int_equal(try_open("bare.tar.zst", NULL, cache, &snapshot, NULL), 0);
    assert_null(snapshot_index(snapshot));
    ssize_t n = snapshot_read_archive(snapshot, data, archive->plain.len + 1, 0, NULL);
    assert_int_equal(n, archive->plain.len);
    assert_memory_equal(data, archive->plain.data, n);
    for (int i = 0; i < 100; i++) {
        size_t from = random_below(archive->plain.len);
        size_t len = random_below(200000);
        size_t left = archive->plain.len - from;
        n = snapshot_read_archive(snapshot, data, len, from, NULL);
        assert_int_equal(n, len < left ? len : left);
        assert_memory_equal(data, archive->plain.data + from, n);
    }
    assert_int_equal(snapshot_read_archive(snapshot, data, 9, archive->plain.len, NULL), 0);
    assert_int_equal(snapshot_read_archive(snapshot, data, 9, UINT64_MAX, NULL), 0);
    assert_int_equal(snapshot_cache_bytes(cache), 0);
    snapshot_unref(take(snapshot));
    snapshot_cache_free(cache);
    archive_done(archive);
}

/* ---- data and holes --------------------------------------------------------------- */

static bool is_data(const struct model *model, uint64_t offset)
{
    for (size_t i = 0; i < model->extent_count; i++)
        if (offset >= model->extents[i].offset &&
            offset - model->extents[i].offset < model->extents[i].bytes)
            return true;
    return !model->is_sparse;
}

/* As lseek(2) has it, byte by byte; the whole file ends in a hole. */
static int64_t seek_slowly(const struct model *model, uint64_t offset, bool data)
{
    if (offset >= model->bytes)
        return -ENXIO;
    while (offset < model->bytes && is_data(model, offset) != data)
        offset++;
    return offset == model->bytes && data ? -ENXIO : (int64_t)offset;
}

static void seeks(void **state)
{
    (void)state;
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    struct archive *archive = make_snapshot("seeks", FILES_MAX);
    struct snapshot *snapshot = must_open("seeks", cache);
    size_t sparse = 0;
    for (uint64_t id = 0; id < archive->count; id++) {
        const struct model *model = &archive->files[id];
        struct snapshot_file file cleanup_snapshot_file = {0};
        if (!S_ISREG(model->mode) || model->bytes > 30000)
            continue;
        assert_int_equal(open_file(snapshot, id, &file), 0);
        sparse += model->extent_count > 1;
        for (int i = 0; i < 20; i++) {
            uint64_t offset = random_below(model->bytes + 2);
            if (i % 2)
                offset = offset / 512 * 512;
            assert_int_equal(snapshot_seek(&file, offset, SEEK_DATA),
                             seek_slowly(model, offset, true));
            assert_int_equal(snapshot_seek(&file, offset, SEEK_HOLE),
                             seek_slowly(model, offset, false));
        }
        assert_int_equal(snapshot_seek(&file, 0, SEEK_SET), -EINVAL);
        assert_int_equal(snapshot_seek(&file, UINT64_MAX, SEEK_HOLE), -ENXIO);
    }
    assert_true(sparse > 3);
    snapshot_unref(snapshot);
    snapshot_cache_free(cache);
    archive_done(archive);
}

/* A file of 100 GiB that is next to nothing. */
static void huge_hole(void **state)
{
    (void)state;
    struct archive *archive = make_snapshot("huge", 2);
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    struct snapshot *snapshot = must_open("huge", cache);
    struct snapshot_file file cleanup_snapshot_file = {0};
    uint64_t size = (uint64_t)100 << 30;
    uint64_t pair[2] = {htole64(size - 512), htole64(512)};
    struct index_entry entry = {.id = 1, .target = 1, .offset = 512};
    char data[1024];
    entry.file = (struct file){.extents = (const char *)pair, .extent_count = 1, .is_sparse = true};
    entry.file.stat = (struct file_stat){.mode = S_IFREG, .size_bytes = size};
    assert_int_equal(snapshot_file_open(snapshot, &entry, &file, NULL), 0);
    assert_int_equal(snapshot_seek(&file, 0, SEEK_DATA), size - 512);
    assert_int_equal(snapshot_read(snapshot, &file, data, 1024, size - 700, NULL), 700);
    for (size_t i = 0; i < 188; i++)
        assert_int_equal(data[i], 0);
    assert_memory_equal(data + 188, archive->plain.data + 512, 512);
    snapshot_file_done(&file);
    /* What would lie beyond the archive's end. */
    entry.offset = archive->plain.len - 511;
    assert_int_equal(snapshot_file_open(snapshot, &entry, &file, NULL), -EBADMSG);
    entry.offset = INT64_MAX;
    assert_int_equal(snapshot_file_open(snapshot, &entry, &file, NULL), -EBADMSG);
    entry.offset = archive->plain.len - 512;
    assert_int_equal(snapshot_file_open(snapshot, &entry, &file, NULL), 0);
    snapshot_unref(snapshot);
    snapshot_cache_free(cache);
    archive_done(archive);
}

/* ---- damage ---------------------------------------------------------------------- */

static void flip(const char *path, uint64_t offset)
{
    char byte;
    int fd cleanup_close = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte = (char)(byte ^ 0x10);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

static bool stands_in(const struct model *file, const struct seekable_frame *frame)
{
    return file->offset < frame->offset + frame->bytes && file->end > frame->offset;
}

static void damaged_frame(void **state)
{
    (void)state;
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    struct archive *archive = make_snapshot("frame", FILES_MAX);
    struct seekable_frame frame;
    size_t failed = 0;
    struct snapshot *snapshot = must_open("frame", cache);
    size_t count = seekable_count(snapshot_seekable(snapshot));
    assert_true(count > 6);
    seekable_frame(snapshot_seekable(snapshot), count / 2, &frame);
    snapshot_unref(snapshot);
    flip("frame.tar.zst", frame.file_offset + frame.file_bytes / 2);
    snapshot = must_open("frame", cache);
    for (uint64_t id = 0; id < archive->count; id++) {
        const struct model *model = &archive->files[id];
        if (!S_ISREG(model->mode))
            continue;
        bool bad = stands_in(model, &frame);
        assert_int_equal(compare_file(snapshot, archive, id), bad ? -EIO : 0);
        failed += bad;
    }
    assert_true(failed > 0 && failed < archive->count / 2);
    /* Mended, it is read again: a failure is not kept. */
    flip("frame.tar.zst", frame.file_offset + frame.file_bytes / 2);
    compare_all(snapshot, archive);
    snapshot_unref(snapshot);
    snapshot_cache_free(cache);
    archive_done(archive);
}

static void cut_while_open(void **state)
{
    (void)state;
    struct snapshot_cache *cache = snapshot_cache_new(0);
    struct archive *archive = make_snapshot("cut", FILES_MAX);
    struct snapshot *snapshot = must_open("cut", cache);
    struct seekable_frame frame;
    size_t good = 0;
    seekable_frame(snapshot_seekable(snapshot), seekable_count(snapshot_seekable(snapshot)) / 2,
                   &frame);
    assert_int_equal(truncate("cut.tar.zst", (off_t)frame.file_offset), 0);
    for (uint64_t id = 0; id < archive->count; id++) {
        const struct model *model = &archive->files[id];
        if (!S_ISREG(model->mode))
            continue;
        bool bad = model->end > frame.offset && model->end > model->offset;
        assert_int_equal(compare_file(snapshot, archive, id), bad ? -EIO : 0);
        good += !bad;
    }
    assert_true(good > 0);
    snapshot_unref(snapshot);
    snapshot_cache_free(cache);
    archive_done(archive);
}

static void not_its_index(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    struct snapshot *snapshot = NULL;
    struct stat st;
    uint8_t sha256[32] = {0};
    struct archive *archive = make_snapshot("one", 30);
    archive_done(make_snapshot("two", 31));
    write_index(archive, "one.tar.zst", "other.index", sha256, 1, 0);
    assert_int_equal(try_open("one.tar.zst", "other.index", cache, &snapshot, NULL), -ENODATA);
    write_index(archive, "one.tar.zst", "other.index", sha256, 0, 1);
    assert_int_equal(try_open("one.tar.zst", "other.index", cache, &snapshot, NULL), -ENODATA);
    archive_done(archive);
    assert_int_equal(try_open("one.tar.zst", "two.index", cache, &snapshot, &why), -ENODATA);
    assert_true(why.text[0] != '\0');
    assert_int_equal(try_open("one.tar.zst", "nobody", cache, &snapshot, NULL), -ENODATA);
    flip("two.index", 5000);
    flip("two.index", 100);
    assert_int_equal(try_open("two.tar.zst", "two.index", cache, &snapshot, NULL), -ENODATA);
    /* An archive whose table is damaged, or gone. */
    assert_int_equal(stat("one.tar.zst", &st), 0);
    flip("one.tar.zst", (uint64_t)st.st_size - 20);
    assert_int_equal(try_open("one.tar.zst", "one.index", cache, &snapshot, NULL), -EBADMSG);
    assert_int_equal(try_open("one.tar.zst", NULL, cache, &snapshot, NULL), -EBADMSG);
    assert_int_equal(truncate("one.tar.zst", st.st_size / 2), 0);
    assert_int_equal(try_open("one.tar.zst", "one.index", cache, &snapshot, NULL), -EBADMSG);
    assert_int_equal(truncate("one.tar.zst", 0), 0);
    assert_int_equal(try_open("one.tar.zst", "one.index", cache, &snapshot, NULL), -EBADMSG);
    assert_null(snapshot);
    snapshot_cache_free(cache);
}

static void same_id(void **state)
{
    (void)state;
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    archive_done(make_snapshot("id1", 30));
    archive_done(make_snapshot("id2", 30));
    assert_int_equal(try_shell("cp id1.tar.zst id3.tar.zst; cp id1.index id3.index"), 0);
    struct snapshot *one = must_open("id1", cache);
    struct snapshot *two = must_open("id2", cache);
    struct snapshot *three = must_open("id3", cache);
    assert_true(snapshot_id(one) != snapshot_id(two));
    assert_true(snapshot_id(one) == snapshot_id(three));
    snapshot_unref(one);
    snapshot_unref(two);
    snapshot_unref(three);
    snapshot_cache_free(cache);
}

/* ---- the cache ------------------------------------------------------------------- */

struct loading {
    atomic_int loads;
    int result;
};

static int load(void *data, void *memory)
{
    struct loading *loading = data;
    int number = atomic_fetch_add(&loading->loads, 1);
    memset(memory, number, 100);
    return loading->result;
}

static int get_and_put(struct snapshot_cache *cache, uint64_t number, struct loading *loading)
{
    struct snapshot_frame *frame;
    int r = snapshot_cache_get(cache, 1, number, 100, load, loading, &frame);
    if (r == 0)
        snapshot_cache_put(cache, frame);
    return r;
}

static void cache_keeps(void **state)
{
    (void)state;
    struct snapshot_frame *frames[8];
    struct snapshot_cache *cache = snapshot_cache_new(300);
    struct loading loading = {0};
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(get_and_put(cache, i, &loading), 0);
    assert_int_equal(get_and_put(cache, 0, &loading), 0);
    assert_int_equal(loading.loads, 3);
    assert_int_equal(get_and_put(cache, 3, &loading), 0); /* 1 goes: it is the oldest */
    assert_int_equal(get_and_put(cache, 0, &loading), 0);
    assert_int_equal(get_and_put(cache, 2, &loading), 0);
    assert_int_equal(loading.loads, 4);
    assert_int_equal(snapshot_cache_bytes(cache), 300);
    assert_int_equal(get_and_put(cache, 1, &loading), 0);
    assert_int_equal(loading.loads, 5);
    /* What is in use stays, beyond the bound. */
    for (uint64_t i = 0; i < 8; i++)
        assert_int_equal(snapshot_cache_get(cache, 1, i, 100, load, &loading, &frames[i]), 0);
    assert_int_equal(snapshot_cache_bytes(cache), 800);
    int loads = loading.loads;
    assert_int_equal(get_and_put(cache, 5, &loading), 0);
    assert_int_equal(loading.loads, loads);
    for (uint64_t i = 0; i < 8; i++)
        snapshot_cache_put(cache, frames[i]);
    assert_int_equal(snapshot_cache_bytes(cache), 300);
    /* A failure is not kept. */
    loading.result = -EIO;
    assert_int_equal(get_and_put(cache, 100, &loading), -EIO);
    assert_int_equal(get_and_put(cache, 100, &loading), -EIO);
    loading.result = 0;
    assert_int_equal(get_and_put(cache, 100, &loading), 0);
    /* Another owner's of the same number is another. */
    loads = loading.loads;
    assert_int_equal(snapshot_cache_get(cache, 2, 100, 100, load, &loading, &frames[0]), 0);
    assert_int_equal(loading.loads, loads + 1);
    snapshot_cache_put(cache, frames[0]);
    snapshot_cache_forget(cache, 1);
    assert_int_equal(snapshot_cache_bytes(cache), 100);
    snapshot_cache_free(cache);
}

struct wanting {
    struct snapshot_cache *cache;
    struct loading *loading;
    int wrong;
};

static void *want(void *data)
{
    struct wanting *wanting = data;
    for (uint64_t i = 0; i < 500; i++) {
        struct snapshot_frame *frame;
        if (snapshot_cache_get(wanting->cache, 1, i, 100, load, wanting->loading, &frame) < 0) {
            wanting->wrong++;
            continue;
        }
        const char *bytes = snapshot_frame_data(frame);
        wanting->wrong += memcmp(bytes, bytes + 1, 99) != 0;
        snapshot_cache_put(wanting->cache, frame);
    }
    return NULL;
}

static void loaded_once(void **state)
{
    (void)state;
    pthread_t threads[8];
    struct wanting wanting[8];
    struct loading loading = {0};
    struct snapshot_cache *cache = snapshot_cache_new(CACHE_BYTES);
    for (size_t i = 0; i < 8; i++) {
        wanting[i] = (struct wanting){cache, &loading, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, want, &wanting[i]), 0);
    }
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(wanting[i].wrong, 0);
    }
    assert_int_equal(loading.loads, 500);
    snapshot_cache_free(cache);
}

/* ---- many readers ----------------------------------------------------------------- */

struct reader {
    struct snapshot *snapshot;
    const struct archive *archive;
    uint64_t random;
    size_t over; /* the cache's bound, and what all have in use */
    struct snapshot_cache *cache;
    int wrong;
};

static void *read_randomly(void *data)
{
    struct reader *reader = data;
    for (int i = 0; i < 150; i++) {
        uint64_t id = random_next(&reader->random, reader->archive->count);
        const struct model *model = &reader->archive->files[id];
        struct snapshot_file file cleanup_snapshot_file = {0};
        if (!S_ISREG(model->mode))
            continue;
        int r = open_file(reader->snapshot, id, &file);
        if (r == 0)
            r = compare_piece(reader->snapshot, &file, model,
                              random_next(&reader->random, model->bytes + 1),
                              random_next(&reader->random, model->bytes + 1));
        reader->wrong += r != 0 || snapshot_cache_bytes(reader->cache) > reader->over;
    }
    snapshot_unref(reader->snapshot);
    return NULL;
}

static void many_readers(void **state)
{
    (void)state;
    pthread_t threads[16];
    struct reader readers[16];
    struct archive *archive = make_snapshot("many", FILES_MAX);
    struct snapshot_cache *cache = snapshot_cache_new(400000);
    struct snapshot *snapshot = must_open("many", cache);
    for (size_t i = 0; i < 16; i++) {
        readers[i] = (struct reader){.snapshot = snapshot_ref(snapshot),
                                     .archive = archive,
                                     .random = i * 77 + 1,
                                     .over = 400000 + 16 * FRAME_MAX_BYTES,
                                     .cache = cache};
        assert_int_equal(pthread_create(&threads[i], NULL, read_randomly, &readers[i]), 0);
    }
    snapshot_unref(snapshot);
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(readers[i].wrong, 0);
    }
    assert_int_equal(snapshot_cache_bytes(cache), 0);
    snapshot_cache_free(cache);
    archive_done(archive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(browse_equals),  cmocka_unit_test(equals_tar),
        cmocka_unit_test(read_archive),   cmocka_unit_test(seeks),
        cmocka_unit_test(huge_hole),      cmocka_unit_test(damaged_frame),
        cmocka_unit_test(cut_while_open), cmocka_unit_test(not_its_index),
        cmocka_unit_test(same_id),        cmocka_unit_test(cache_keeps),
        cmocka_unit_test(loaded_once),    cmocka_unit_test(many_readers),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave_test_dir);
}
