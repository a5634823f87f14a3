/* SPDX-License-Identifier: MIT */
#include "scratch.h"

#include "base/buf.h"
#include "base/fd.h"
#include "store/codec.h"
#include "store/seekable.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <xxhash.h>

#define MIB ((size_t)1024 * 1024)
#define BYTES_MAX (64 * MIB)
#define TABLE_MAGIC UINT32_C(0x184d2a5e)
#define FOOTER_MAGIC UINT32_C(0x8f92eab1)

/* ---- files made by the writer ----------------------------------------------------- */

/* A file, and what it decompresses to. */
struct sample {
    int fd;
    struct buf plain;
    struct seekable_writer *writer;
    uint8_t sha256[SEEKABLE_SHA256_BYTES];
};

static int new_file(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void sample_begin_aligned(struct sample *sample, const char *name, unsigned block_bytes)
{
    sample->fd = new_file(name);
    buf_init(&sample->plain, BYTES_MAX);
    sample->writer = seekable_writer_new(sample->fd, block_bytes);
    assert_non_null(sample->writer);
}

static void sample_begin(struct sample *sample, const char *name)
{
    sample_begin_aligned(sample, name, 0);
}

static void sample_done(struct sample *sample)
{
    if (sample->fd >= 0)
        (void)close(sample->fd);
    buf_done(&sample->plain);
    seekable_writer_free(sample->writer);
}

/* Half noise, so that frames are not much smaller than what they hold. */
static void fill(char *data, size_t bytes, uint64_t number)
{
    uint64_t random = number * 77 + 1;
    for (size_t i = 0; i < bytes; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        data[i] = (char)(i / 64 % 2 ? random >> 56 : number);
    }
}

/* `bytes` that are told by the number as a frame: its bytes, malloc'ed. */
static size_t compress(const char *plain, size_t bytes, char **ret_frame, uint32_t *ret_checksum)
{
    size_t room = codec_zstd.bound(bytes);
    void *context = codec_zstd.open(3);
    *ret_frame = malloc(room);
    assert_true(context && *ret_frame);
    ssize_t n = codec_zstd.compress(context, plain, bytes, *ret_frame, room, ret_checksum);
    assert_true(n > 0);
    codec_zstd.close(context);
    return (size_t)n;
}

static int try_add(struct sample *sample, size_t bytes, uint64_t number, struct fail *why)
{
    size_t before = sample->plain.len;
    assert_int_equal(buf_add_zeros(&sample->plain, bytes), 0);
    char *plain = sample->plain.data + before;
    fill(plain, bytes, number);
    cleanup_free char *frame = NULL;
    uint32_t checksum;
    size_t n = compress(plain, bytes, &frame, &checksum);
    assert_int_equal(checksum, (uint32_t)XXH64(plain, bytes, 0));
    return seekable_add_frame(sample->writer, frame, (uint32_t)n, (uint32_t)bytes, checksum, why);
}

static void add(struct sample *sample, size_t bytes, uint64_t number)
{
    assert_int_equal(try_add(sample, bytes, number, NULL), 0);
    assert_int_equal(seekable_bytes(sample->writer), sample->plain.len);
}

static void finish(struct sample *sample)
{
    struct stat st;
    assert_int_equal(seekable_finish(sample->writer, sample->sha256, NULL), 0);
    assert_int_equal(fstat(sample->fd, &st), 0);
    assert_int_equal(seekable_file_bytes(sample->writer), st.st_size);
}

/* Each frame, found by its offsets, has what it should. */
static void check_frames(const struct seekable *seekable, const struct buf *plain)
{
    uint64_t offset = 0;
    uint64_t file_offset = 0;
    assert_int_equal(seekable_total_bytes(seekable), plain->len);
    for (size_t i = 0; i < seekable_count(seekable); i++) {
        struct seekable_frame frame;
        seekable_frame(seekable, i, &frame);
        assert_int_equal(frame.offset, offset);
        assert_int_equal(frame.file_offset, file_offset);
        cleanup_free char *buffer = malloc(frame.bytes + 1);
        assert_int_equal(seekable_read(seekable, i, buffer, NULL), 0);
        if (frame.bytes) {
            assert_memory_equal(buffer, plain->data + offset, frame.bytes);
            assert_int_equal(seekable_find(seekable, offset), i);
            assert_int_equal(seekable_find(seekable, offset + frame.bytes - 1), i);
        }
        offset += frame.bytes;
        file_offset += frame.file_bytes;
    }
    assert_int_equal(offset, plain->len);
}

static void check_sample(const struct sample *sample)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct fail why = FAIL_INIT;
    int r = seekable_open(sample->fd, &seekable, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
    assert_true(seekable_has_checksums(seekable));
    check_frames(seekable, &sample->plain);
}

/* zstd finds it sound and makes the same of it, and sha256sum agrees. */
static void check_by_tools(const struct sample *sample, const char *name)
{
    int fd = new_file("plain");
    assert_int_equal(fd_pwrite_all(fd, sample->plain.data, sample->plain.len, 0), 0);
    (void)close(fd);
    assert_int_equal(try_shell("zstd -tq %s && zstd -dcq %s | cmp - plain", name, name), 0);
    char hex[2 * SEEKABLE_SHA256_BYTES + 1];
    for (size_t i = 0; i < SEEKABLE_SHA256_BYTES; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", sample->sha256[i]);
    assert_int_equal(try_shell("echo '%s  %s' | sha256sum --check --status", hex, name), 0);
}

/* A second reader of the format, which shares nothing with ours: each frame the
 * table tells of is cut out and given to zstd. */
static const char reader[] =
    "import struct, subprocess, sys\n"
    "data, plain = (open(name, 'rb').read() for name in sys.argv[1:])\n"
    "count, flags, magic = struct.unpack('<IBI', data[-9:])\n"
    "assert magic == 0x8F92EAB1 and flags == 0x80\n"
    "table = len(data) - 9 - 12 * count\n"
    "assert struct.unpack('<II', data[table - 8:table]) == (0x184D2A5E, 12 * count + 9)\n"
    "at = offset = 0\n"
    "for size, bytes, checksum in struct.iter_unpack('<III', data[table:-9]):\n"
    "    frame = data[at:at + size]\n"
    "    out = subprocess.run(['zstd', '-dcq'], input=frame, stdout=-1, check=True).stdout\n"
    "    assert out == plain[offset:offset + bytes] and len(out) == bytes\n"
    "    if bytes:\n"
    "        assert struct.unpack('<I', frame[-4:]) == (checksum,)\n"
    "    at += size\n"
    "    offset += bytes\n"
    "assert at == table - 8 and offset == len(plain)\n";

static void round_trip(void **state)
{
    (void)state;
    static const size_t lengths[] = {70000, 1, 0, 3 * MIB, 512, 131072, 2 * MIB};
    struct sample sample cleanup(sample_done) = {.fd = -1};
    sample_begin(&sample, "sample.zst");
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++)
        add(&sample, lengths[i], i);
    finish(&sample);
    check_sample(&sample);
    check_by_tools(&sample, "sample.zst");
    int fd = new_file("reader.py");
    assert_int_equal(fd_pwrite_all(fd, reader, strlen(reader), 0), 0);
    (void)close(fd);
    assert_int_equal(try_shell("python3 reader.py sample.zst plain"), 0);
}

static void of_no_frames(void **state)
{
    (void)state;
    struct sample sample cleanup(sample_done) = {.fd = -1};
    sample_begin(&sample, "empty.zst");
    finish(&sample);
    check_sample(&sample);
}

static void of_many_frames(void **state)
{
    (void)state;
    struct sample sample cleanup(sample_done) = {.fd = -1};
    sample_begin(&sample, "many.zst");
    for (size_t i = 0; i < 3000; i++)
        add(&sample, i % 7 * 20, i);
    finish(&sample);
    check_sample(&sample);
}

static void sizes_that_the_format_has_not(void **state)
{
    (void)state;
    struct sample sample cleanup(sample_done) = {.fd = -1};
    sample_begin(&sample, "sizes.zst");
    char data[8] = {0};
    assert_int_equal(seekable_add_frame(sample.writer, data, 7, 1, 0, NULL), -EINVAL);
    assert_int_equal(
        seekable_add_frame(sample.writer, data, 8, SEEKABLE_FRAME_MAX_BYTES + 1, 0, NULL), -EINVAL);
}

/* ---- damage ---------------------------------------------------------------------- */

static struct buf small_file(struct buf *plain)
{
    struct sample sample cleanup(sample_done) = {.fd = -1};
    sample_begin(&sample, "small.zst");
    for (size_t i = 0; i < 4; i++)
        add(&sample, 100 + i * 30, i);
    finish(&sample);
    struct buf file;
    buf_init(&file, BYTES_MAX);
    size_t bytes = seekable_file_bytes(sample.writer);
    assert_int_equal(buf_add_zeros(&file, bytes), 0);
    assert_int_equal(fd_pread_full(sample.fd, file.data, bytes, 0), (ssize_t)bytes);
    *plain = sample.plain;
    buf_init(&sample.plain, BYTES_MAX);
    return file;
}

/* A file of just these bytes, without a name. */
static int file_of(const void *data, size_t bytes)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fd_pwrite_all(fd, data, bytes, 0), 0);
    return fd;
}

/* Opens it: what is given out is the same as ever, or nothing is.  Whether all was. */
static bool same_or_nothing(int fd, const struct buf *plain)
{
    struct seekable *seekable cleanup_seekable = NULL;
    int r = seekable_open(fd, &seekable, NULL);
    if (r < 0) {
        assert_true(r == -ENODATA || r == -EBADMSG || r == -EOVERFLOW);
        return false;
    }
    assert_int_equal(seekable_total_bytes(seekable), plain->len);
    bool is_all = true;
    char buffer[1024];
    for (size_t i = 0; i < seekable_count(seekable); i++) {
        struct seekable_frame frame;
        seekable_frame(seekable, i, &frame);
        assert_true(frame.bytes <= sizeof(buffer));
        r = seekable_read(seekable, i, buffer, NULL);
        assert_true(r == 0 || r == -EBADMSG);
        if (r == 0)
            assert_memory_equal(buffer, plain->data + frame.offset, frame.bytes);
        is_all = is_all && r == 0;
    }
    return is_all;
}

static void each_bit(void **state)
{
    (void)state;
    struct buf plain cleanup_buf;
    struct buf file cleanup_buf = small_file(&plain);
    cleanup_close int fd = file_of(file.data, file.len);
    assert_true(same_or_nothing(fd, &plain));
    size_t harmless = 0;
    for (size_t bit = 0; bit < file.len * 8; bit++) {
        char byte = (char)(file.data[bit / 8] ^ (1 << bit % 8));
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
        harmless += same_or_nothing(fd, &plain);
        assert_int_equal(pwrite(fd, &file.data[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    /* The seal's own bytes, and bits of the frames' headers that mean nothing. */
    assert_in_range(harmless, 1, 24 * 8 + 4 * 2);
}

static void each_length(void **state)
{
    (void)state;
    struct buf plain cleanup_buf;
    struct buf file cleanup_buf = small_file(&plain);
    for (size_t bytes = 0; bytes < file.len; bytes++) {
        cleanup_close int fd = file_of(file.data, bytes);
        assert_false(same_or_nothing(fd, &plain));
    }
    for (size_t from = 1; from < file.len; from++) {
        cleanup_close int fd = file_of(file.data + from, file.len - from);
        assert_false(same_or_nothing(fd, &plain));
    }
    assert_int_equal(buf_add(&file, "", 1), 0);
    cleanup_close int longer = file_of(file.data, file.len);
    assert_false(same_or_nothing(longer, &plain));
}

/* Shortened while it is open. */
static void cut_short_later(void **state)
{
    (void)state;
    struct buf plain cleanup_buf;
    struct buf file cleanup_buf = small_file(&plain);
    cleanup_close int fd = file_of(file.data, file.len);
    struct seekable *seekable cleanup_seekable = NULL;
    assert_int_equal(seekable_open(fd, &seekable, NULL), 0);
    assert_int_equal(ftruncate(fd, 20), 0);
    char buffer[1024];
    assert_int_equal(seekable_read(seekable, 0, buffer, NULL), -EBADMSG);
    assert_int_equal(seekable_read(seekable, 2, buffer, NULL), -EBADMSG);
}

/* ---- tables made by hand ------------------------------------------------------------ */

static void add32(struct buf *buf, uint32_t value)
{
    assert_int_equal(buf_add(buf, &value, sizeof(value)), 0); /* tests run on little-endian */
}

struct item {
    uint32_t file_bytes;
    uint32_t bytes;
    uint32_t checksum;
};

/* What is lied about; 0: nothing. */
struct lie {
    uint32_t count;
    uint32_t table_bytes;
    uint32_t magic;
    uint8_t flags;
};

static void add_table(struct buf *file, const struct item *items, uint32_t count, uint8_t flags,
                      struct lie lie)
{
    uint32_t bytes = count * (flags & 0x80 ? 12 : 8) + 9;
    add32(file, lie.magic ? lie.magic : TABLE_MAGIC);
    add32(file, lie.table_bytes ? lie.table_bytes : bytes);
    for (uint32_t i = 0; i < count; i++) {
        add32(file, items[i].file_bytes);
        add32(file, items[i].bytes);
        if (flags & 0x80)
            add32(file, items[i].checksum);
    }
    add32(file, lie.count ? lie.count : count);
    flags |= lie.flags;
    assert_int_equal(buf_add(file, &flags, 1), 0);
    add32(file, FOOTER_MAGIC);
}

/* Two frames of 100 bytes each, in `file`, and their items. */
static void two_frames(struct buf *file, struct item items[2])
{
    buf_init(file, BYTES_MAX);
    for (uint64_t i = 0; i < 2; i++) {
        char plain[100];
        cleanup_free char *frame = NULL;
        fill(plain, sizeof(plain), i);
        size_t n = compress(plain, sizeof(plain), &frame, &items[i].checksum);
        assert_int_equal(buf_add(file, frame, n), 0);
        items[i].file_bytes = (uint32_t)n;
        items[i].bytes = sizeof(plain);
    }
}

static int open_bytes(const struct buf *file, int *ret_fd, struct seekable **ret_seekable)
{
    *ret_fd = file_of(file->data, file->len);
    return seekable_open(*ret_fd, ret_seekable, NULL);
}

/* What opening says to the two frames with these items. */
static int open_items(const struct item items[2], uint8_t flags, struct lie lie)
{
    struct item sound[2];
    struct buf file cleanup_buf;
    cleanup_close int fd = -1;
    struct seekable *seekable cleanup_seekable = NULL;
    two_frames(&file, sound);
    add_table(&file, items, 2, flags, lie);
    return open_bytes(&file, &fd, &seekable);
}

/* ... and then reading the first one, where it can be opened. */
static int read_items(const struct item items[2], uint8_t flags)
{
    struct item sound[2];
    struct buf file cleanup_buf;
    cleanup_close int fd = -1;
    struct seekable *seekable cleanup_seekable = NULL;
    two_frames(&file, sound);
    add_table(&file, items, 2, flags, (struct lie){0});
    assert_int_equal(open_bytes(&file, &fd, &seekable), 0);
    cleanup_free char *buffer = malloc(items[0].bytes + 1);
    return seekable_read(seekable, 0, buffer, NULL);
}

static void tables_of_others(void **state)
{
    (void)state;
    struct item items[2];
    struct buf file cleanup_buf;
    two_frames(&file, items);
    for (unsigned flags = 0; flags <= 0x80; flags += 0x80) {
        assert_int_equal(open_items(items, (uint8_t)flags, (struct lie){0}), 0);
        assert_int_equal(open_items(items, (uint8_t)flags, (struct lie){.flags = 3}), 0);
        assert_int_equal(read_items(items, (uint8_t)flags), 0);
        struct buf table cleanup_buf;
        cleanup_close int fd = -1;
        struct seekable *seekable cleanup_seekable = NULL;
        buf_init(&table, 64);
        add_table(&table, NULL, 0, (uint8_t)flags, (struct lie){0});
        assert_int_equal(open_bytes(&table, &fd, &seekable), 0);
        assert_int_equal(seekable_total_bytes(seekable), 0);
    }
}

static void hostile_outsides(void **state)
{
    (void)state;
    struct item items[2];
    struct buf file cleanup_buf;
    two_frames(&file, items);
    for (uint8_t flag = 4; flag < 0x80; flag = (uint8_t)(flag << 1))
        assert_int_equal(open_items(items, 0x80, (struct lie){.flags = flag}), -EBADMSG);
    assert_int_equal(open_items(items, 0, (struct lie){.flags = 0x80}), -EBADMSG);
    const uint32_t counts[] = {1, 3, 100, UINT32_MAX, UINT32_MAX / 12 + 1, 1u << 31};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
        assert_int_equal(open_items(items, 0x80, (struct lie){.count = counts[i]}), -EBADMSG);
    const uint32_t bytes[] = {1, 32, 34, UINT32_MAX};
    for (size_t i = 0; i < sizeof(bytes) / sizeof(*bytes); i++)
        assert_int_equal(open_items(items, 0x80, (struct lie){.table_bytes = bytes[i]}), -EBADMSG);
    assert_int_equal(open_items(items, 0x80, (struct lie){.magic = TABLE_MAGIC - 1}), -EBADMSG);
}

static void hostile_items(void **state)
{
    (void)state;
    struct item sound[2];
    struct buf file cleanup_buf;
    two_frames(&file, sound);
    uint32_t both = sound[0].file_bytes + sound[1].file_bytes;
    const struct {
        uint32_t first, second;
    } bad[] = {
        {sound[0].file_bytes, sound[1].file_bytes + 1}, /* into the table */
        {sound[0].file_bytes, sound[1].file_bytes - 1}, /* a byte is nobody's */
        {sound[0].file_bytes, 0},
        {UINT32_MAX, both + 1}, /* 2^32 in all, and so on */
        {both + 1, UINT32_MAX},
        {UINT32_MAX, UINT32_MAX},
        {1u << 31, 1u << 31},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct item items[2] = {sound[0], sound[1]};
        items[0].file_bytes = bad[i].first;
        items[1].file_bytes = bad[i].second;
        assert_int_equal(open_items(items, 0x80, (struct lie){0}), -EBADMSG);
    }
    for (size_t i = 0; i < 2; i++) {
        struct item items[2] = {sound[0], sound[1]};
        items[i].bytes = SEEKABLE_FRAME_MAX_BYTES + 1;
        assert_int_equal(open_items(items, 0x80, (struct lie){0}), -EBADMSG);
    }
}

static void frames_that_are_not_as_told(void **state)
{
    (void)state;
    struct item sound[2];
    struct buf file cleanup_buf;
    two_frames(&file, sound);
    const struct item cases[][2] = {
        /* Other contents, sizes and bounds than the frames have; two frames as one. */
        {{sound[0].file_bytes, 100, sound[0].checksum ^ 1}, sound[1]},
        {{sound[0].file_bytes, 99, sound[0].checksum}, sound[1]},
        {{sound[0].file_bytes, 101, sound[0].checksum}, sound[1]},
        {{sound[0].file_bytes, 1, sound[0].checksum}, sound[1]},
        {{sound[0].file_bytes - 1, 100, sound[0].checksum}, {sound[1].file_bytes + 1, 100, 0}},
        {{sound[0].file_bytes + 1, 100, sound[0].checksum}, {sound[1].file_bytes - 1, 100, 0}},
        {{sound[0].file_bytes + sound[1].file_bytes, 100, sound[0].checksum}, {0, 0, 0}},
        {{sound[0].file_bytes + sound[1].file_bytes, 200, sound[0].checksum}, {0, 0, 0}},
        {{0, 100, 0}, {sound[0].file_bytes + sound[1].file_bytes, 100, 0}},
        {{3, 100, 0}, {sound[0].file_bytes + sound[1].file_bytes - 3, 100, 0}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(read_items(cases[i], 0x80), -EBADMSG);
        if (i > 0)
            assert_int_equal(read_items(cases[i], 0), -EBADMSG);
    }
}

/* What no disk has room for is not asked for: sparse files of such sizes. */
static void tables_too_large(void **state)
{
    (void)state;
    cleanup_close int fd = memfd_create("test", MFD_CLOEXEC);
    struct buf end cleanup_buf;
    struct seekable *seekable cleanup_seekable = NULL;
    uint64_t count = SEEKABLE_FRAMES_MAX + 1;
    buf_init(&end, 64);
    add_table(&end, NULL, 0, 0x80, (struct lie){.count = (uint32_t)count});
    assert_int_equal(fd_pwrite_all(fd, end.data + 8, 9, 8 + count * 12), 0);
    assert_int_equal(seekable_open(fd, &seekable, NULL), -EOVERFLOW);
}

static void a_frame_much_larger_than_its_contents(void **state)
{
    (void)state;
    const uint32_t frame_bytes = 3u << 30;
    cleanup_close int fd = memfd_create("test", MFD_CLOEXEC);
    struct buf end cleanup_buf;
    struct seekable *seekable cleanup_seekable = NULL;
    buf_init(&end, 64);
    add_table(&end, &(struct item){frame_bytes, 1, 0}, 1, 0x80, (struct lie){0});
    assert_int_equal(fd_pwrite_all(fd, end.data, end.len, frame_bytes), 0);
    assert_int_equal(seekable_open(fd, &seekable, NULL), 0);
    char byte;
    assert_int_equal(seekable_read(seekable, 0, &byte, NULL), -EOVERFLOW);
}

static void files_without_a_table(void **state)
{
    (void)state;
    struct item items[2];
    struct buf file cleanup_buf;
    two_frames(&file, items);
    cleanup_close int zst = file_of(file.data, file.len);
    cleanup_close int empty = file_of("", 0);
    cleanup_close int closed = -1;
    struct seekable *seekable cleanup_seekable = NULL;
    assert_int_equal(seekable_open(zst, &seekable, NULL), -ENODATA);
    assert_int_equal(seekable_open(empty, &seekable, NULL), -ENODATA);
    assert_int_equal(seekable_open(closed, &seekable, NULL), -EBADF);
    assert_null(seekable);
}

/* ---- taking frames over ---------------------------------------------------------- */

/* The index of the frame that is the number-th with something in it. */
static size_t nth_frame(const struct seekable *seekable, size_t number)
{
    struct seekable_frame frame;
    for (size_t i = 0;; i++) {
        seekable_frame(seekable, i, &frame);
        if (frame.bytes > 0 && number-- == 0)
            return i;
    }
}

/* Takes over frames from..to of the other one, not counting padding. */
static int take_over(struct sample *sample, const struct sample *other, size_t from, size_t to)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct seekable_frame frames[64];
    assert_int_equal(seekable_open(other->fd, &seekable, NULL), 0);
    from = nth_frame(seekable, from);
    to = nth_frame(seekable, to - 1) + 1;
    for (size_t i = from; i < to; i++) {
        seekable_frame(seekable, i, &frames[i - from]);
        assert_int_equal(buf_add(&sample->plain, other->plain.data + frames[i - from].offset,
                                 frames[i - from].bytes),
                         0);
    }
    return seekable_add_from(sample->writer, other->fd, frames, to - from, NULL);
}

/* Brings the file to where the padding would be less than a frame can be. */
static void add_all_but_padding(struct sample *sample, const struct sample *other, size_t index)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct seekable_frame frame;
    assert_int_equal(seekable_open(other->fd, &seekable, NULL), 0);
    seekable_frame(seekable, nth_frame(seekable, index), &frame);
    uint64_t bytes = (frame.file_offset - seekable_file_bytes(sample->writer) - 3) % 4096 + 4096;
    struct buf skippable cleanup_buf;
    buf_init(&skippable, BYTES_MAX);
    add32(&skippable, 0x184d2a55);
    add32(&skippable, (uint32_t)bytes - 8);
    assert_int_equal(buf_add_zeros(&skippable, bytes - 8), 0);
    assert_int_equal(seekable_add_frame(sample->writer, skippable.data, (uint32_t)bytes, 0,
                                        SEEKABLE_EMPTY_CHECKSUM, NULL),
                     0);
}

/* Frames of another file between new ones, some next to each other. */
static void taken_over(const char *one_name, const char *other_name, bool is_shared)
{
    struct sample one cleanup(sample_done) = {.fd = -1};
    sample_begin_aligned(&one, one_name, 4096);
    for (size_t i = 0; i < 12; i++)
        add(&one, 300000 + i * 1000, i);
    finish(&one);
    struct sample other cleanup(sample_done) = {.fd = -1};
    sample_begin_aligned(&other, other_name, 4096);
    add(&other, 12345, 100);
    assert_int_equal(take_over(&other, &one, 0, 1), 0);
    assert_int_equal(take_over(&other, &one, 1, 2), 0);
    add(&other, 1, 101);
    assert_int_equal(take_over(&other, &one, 4, 9), 0);
    assert_int_equal(take_over(&other, &one, 3, 4), 0);
    add(&other, 70000, 102);
    add_all_but_padding(&other, &one, 10);
    assert_int_equal(take_over(&other, &one, 10, 12), 0);
    finish(&other);
    check_sample(&other);
    check_by_tools(&other, other_name);
    if (is_shared)
        assert_true(seekable_shared_bytes(other.writer) >
                    seekable_file_bytes(other.writer) * 8 / 10);
    else
        assert_int_equal(seekable_shared_bytes(other.writer), 0);
}

static void taken_over_by_copying(void **state)
{
    (void)state;
    char name[64];
    (void)snprintf(name, sizeof(name), "/dev/shm/test-seekable-%d", (int)getpid());
    taken_over("one.zst", name, false);
    (void)unlink(name);
}

/* Those frames, of which from..to are taken over from the other one, if there is one. */
static void add_twelve(struct sample *sample, const struct sample *other, size_t from, size_t to)
{
    for (size_t i = 0; i < 12; i++)
        if (!other || i < from || i >= to)
            add(sample, 30000 + i * 1111, i);
        else if (i == from)
            assert_int_equal(take_over(sample, other, from, to), 0);
    finish(sample);
}

/* Each begins at a whole block, and is the only one that could. */
static void check_places(const struct sample *sample, unsigned block_bytes)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct seekable_frame frame;
    assert_int_equal(seekable_open(sample->fd, &seekable, NULL), 0);
    for (size_t number = 0; number < 12; number++) {
        seekable_frame(seekable, nth_frame(seekable, number), &frame);
        assert_int_equal(frame.file_offset % block_bytes, 0);
    }
    assert_true(seekable_count(seekable) <= 24 + 1);
}

/* Whichever frames were taken over, and from where, the file is the same. */
static void the_same_file_either_way(void **state)
{
    (void)state;
    static const unsigned blocks[] = {0, 512, 4096, 65536};
    for (size_t i = 0; i < 16; i++) {
        struct sample full cleanup(sample_done) = {.fd = -1};
        struct sample other cleanup(sample_done) = {.fd = -1};
        struct sample mixed cleanup(sample_done) = {.fd = -1};
        sample_begin_aligned(&full, "full.zst", blocks[i % 4]);
        add_twelve(&full, NULL, 0, 0);
        check_sample(&full);
        check_places(&full, blocks[i % 4] ? blocks[i % 4] : 1);
        sample_begin_aligned(&other, "other.zst", blocks[i / 4]);
        add_twelve(&other, NULL, 0, 0);
        for (size_t from = 0; from < 12; from += 3) {
            sample_begin_aligned(&mixed, "mixed.zst", blocks[i % 4]);
            add_twelve(&mixed, &other, from, from + 1 + from % 4);
            assert_memory_equal(mixed.sha256, full.sha256, sizeof(full.sha256));
            sample_done(&mixed);
            mixed = (struct sample){.fd = -1};
        }
    }
}

static void frames_that_are_not_there(void **state)
{
    (void)state;
    struct sample one cleanup(sample_done) = {.fd = -1};
    struct sample other cleanup(sample_done) = {.fd = -1};
    sample_begin(&one, "one.zst");
    add(&one, 300000, 1);
    sample_begin(&other, "other.zst");
    struct seekable_frame frames[2] = {{.file_offset = 0, .file_bytes = 5, .bytes = 5},
                                       {.file_offset = 6, .file_bytes = 5, .bytes = 5}};
    assert_int_equal(seekable_add_from(other.writer, one.fd, frames, 2, NULL), -EINVAL);
    frames[1].file_offset = 5;
    frames[1].file_bytes = 1u << 30;
    assert_int_equal(seekable_add_from(other.writer, one.fd, frames, 2, NULL), -EBADMSG);
}

/* ---- disks of our own --------------------------------------------------------------- */

static bool have_own_mounts(void)
{
    static int have = -1;
    if (have < 0)
        have = enter_own_mounts() && mkdir("disk", 0700) == 0;
    return have;
}

static void full_disk(void **state)
{
    (void)state;
    if (!have_own_mounts() || mount("none", "disk", "tmpfs", 0, "size=1m") < 0)
        skip();
    struct sample one cleanup(sample_done) = {.fd = -1};
    sample_begin(&one, "one.zst");
    for (size_t i = 0; i < 12; i++)
        add(&one, 300000, i);
    finish(&one);
    for (int way = 0; way < 3; way++) {
        struct sample full cleanup(sample_done) = {.fd = -1};
        struct fail why = FAIL_INIT;
        sample_begin(&full, "disk/full.zst");
        int r = 0;
        if (way == 0)
            for (size_t i = 0; r == 0 && i < 100; i++)
                r = try_add(&full, 100000, i, &why);
        else if (way == 1)
            r = take_over(&full, &one, 0, 12);
        else
            r = try_shell("head -c 1048576 /dev/zero >disk/other") == 0
                    ? seekable_finish(full.writer, full.sha256, &why)
                    : 0;
        (void)unlink("disk/other");
        assert_int_equal(r, -ENOSPC);
        if (way == 0)
            assert_non_null(strstr(why.text, "No space left"));
    }
    assert_int_equal(umount2("disk", MNT_DETACH), 0);
}

/* The bytes of the file that the file system says are shared. */
static uint64_t shared_extents(const char *name)
{
    enum { EXTENTS = 256 };
    struct fiemap *map = calloc(1, sizeof(*map) + EXTENTS * sizeof(map->fm_extents[0]));
    cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(map && fd >= 0);
    map->fm_length = UINT64_MAX;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = EXTENTS;
    assert_int_equal(ioctl(fd, FS_IOC_FIEMAP, map), 0);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < map->fm_mapped_extents; i++)
        if (map->fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED)
            bytes += map->fm_extents[i].fe_length;
    free(map);
    return bytes;
}

static void taken_over_by_sharing(const char *mkfs)
{
    if (!have_own_mounts() ||
        try_shell("truncate -s 400M image && %s image >/dev/null 2>&1", mkfs) ||
        try_shell("mount -o loop image disk 2>/dev/null"))
        skip();
    taken_over("disk/one.zst", "disk/other.zst", true);
    assert_true(shared_extents("disk/other.zst") > 1500000);
    /* The other one's end is none of ours. */
    assert_int_equal(try_shell("rm disk/one.zst && zstd -tq disk/other.zst"), 0);
    assert_int_equal(try_shell("umount -l disk && rm image"), 0);
}

static void shared_on_xfs(void **state)
{
    (void)state;
    taken_over_by_sharing("mkfs.xfs -f -q -m reflink=1");
}

static void shared_on_btrfs(void **state)
{
    (void)state;
    taken_over_by_sharing("mkfs.btrfs -f -q");
}

static void padding_is_a_skippable_frame_of_zeros(void **state)
{
    (void)state;
    unsigned char frame[16] = {0x50, 0x2a, 0x4d, 0x18, 8};
    assert_true(seekable_is_padding(frame, sizeof(frame)));
    assert_false(seekable_is_padding(frame, sizeof(frame) - 1));
    assert_false(seekable_is_padding(frame, 7));
    for (size_t i = 0; i < sizeof(frame); i++) {
        frame[i] ^= 1;
        assert_false(seekable_is_padding(frame, sizeof(frame)));
        frame[i] ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(padding_is_a_skippable_frame_of_zeros),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(of_no_frames),
        cmocka_unit_test(of_many_frames),
        cmocka_unit_test(sizes_that_the_format_has_not),
        cmocka_unit_test(each_bit),
        cmocka_unit_test(each_length),
        cmocka_unit_test(cut_short_later),
        cmocka_unit_test(tables_of_others),
        cmocka_unit_test(hostile_outsides),
        cmocka_unit_test(hostile_items),
        cmocka_unit_test(frames_that_are_not_as_told),
        cmocka_unit_test(tables_too_large),
        cmocka_unit_test(a_frame_much_larger_than_its_contents),
        cmocka_unit_test(files_without_a_table),
        cmocka_unit_test(taken_over_by_copying),
        cmocka_unit_test(the_same_file_either_way),
        cmocka_unit_test(frames_that_are_not_there),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(shared_on_xfs),
        cmocka_unit_test(shared_on_btrfs),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave_test_dir);
}
