/* SPDX-License-Identifier: MIT */
#include "store/seekable.h"

#include "base/buf.h"
#include "base/fd.h"

#include <assert.h>
#include <endian.h>
#include <linux/fs.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zstd.h>

#define SKIPPABLE_BYTES 8 /* magic and size in front of every skippable frame */
#define SKIPPABLE_MAGIC UINT32_C(0x184d2a50)
#define TABLE_MAGIC UINT32_C(0x184d2a5e)

#define FOOTER_BYTES 9
#define FOOTER_MAGIC UINT32_C(0x8f92eab1)
#define FLAG_CHECKSUMS 0x80
#define FLAGS_RESERVED 0x7c

#define ITEM_BYTES 12 /* with checksum, else: */
#define ITEM_PLAIN_BYTES 8
#define ITEMS_AT_ONCE 1024

/* The seal: a skippable frame with a mark of its own and the XXH64 of the table's
 * items and footer. */
#define SEAL_MAGIC UINT32_C(0x184d2a5d)
#define SEAL_MARK UINT64_C(0x6c61657373666c76) /* "vlfsseal" */
#define SEAL_BYTES (SKIPPABLE_BYTES + 16)

#define PIECE_BYTES ((size_t)256 * 1024)

static void put32(unsigned char *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static uint32_t get32(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static void put64(unsigned char *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return le64toh(value);
}

/* ---- writing ------------------------------------------------------------------ */

struct seekable_writer {
    int fd;
    bool may_share; /* until it did not work once */
    bool finished;
    uint64_t block_bytes; /* 0: frames begin anywhere */
    uint64_t file_bytes;
    uint64_t begun_bytes; /* of these, what the disk was told to begin with */
    uint64_t bytes;
    uint64_t shared_bytes;
    struct buf items; /* of the table */
    EVP_MD_CTX *sha256;
    char *piece; /* PIECE_BYTES */
};

struct seekable_writer *seekable_writer_new(int fd, unsigned block_bytes)
{
    assert(block_bytes <= SEEKABLE_BLOCK_MAX_BYTES && (block_bytes & (block_bytes - 1)) == 0);
    struct seekable_writer *writer cleanup_seekable_writer = calloc(1, sizeof(*writer));
    if (!writer)
        return NULL;
    writer->fd = fd;
    buf_init(&writer->items, SEEKABLE_FRAMES_MAX * ITEM_BYTES);
    writer->sha256 = EVP_MD_CTX_new();
    writer->piece = malloc(PIECE_BYTES);
    if (!writer->piece || !writer->sha256 ||
        EVP_DigestInit_ex(writer->sha256, EVP_sha256(), NULL) != 1)
        return NULL;
    writer->may_share = block_bytes > 0;
    writer->block_bytes = block_bytes;
    return take(writer);
}

void seekable_writer_free(struct seekable_writer *writer)
{
    if (!writer)
        return;
    buf_done(&writer->items);
    EVP_MD_CTX_free(writer->sha256);
    free(writer->piece);
    free(writer);
}

uint64_t seekable_file_bytes(const struct seekable_writer *writer)
{
    return writer->file_bytes;
}

uint64_t seekable_bytes(const struct seekable_writer *writer)
{
    return writer->bytes;
}

uint64_t seekable_shared_bytes(const struct seekable_writer *writer)
{
    return writer->shared_bytes;
}

static int hash(struct seekable_writer *writer, const void *data, size_t bytes, struct fail *why)
{
    if (EVP_DigestUpdate(writer->sha256, data, bytes) != 1)
        return fail_set(why, EIO, "SHA-256 failed");
    return 0;
}

/* Adds bytes to the file. */
static int append(struct seekable_writer *writer, const void *data, size_t bytes, struct fail *why)
{
    int r = fd_pwrite_all(writer->fd, data, bytes, writer->file_bytes);
    if (r < 0)
        return fail_errno(why, -r, "cannot write the snapshot");
    writer->file_bytes += bytes;
    fd_begin_writing(writer->fd, &writer->begun_bytes, writer->file_bytes);
    return hash(writer, data, bytes, why);
}

/* Adds a frame to the table. */
static int list(struct seekable_writer *writer, uint32_t file_bytes, uint32_t bytes,
                uint32_t checksum, struct fail *why)
{
    unsigned char item[ITEM_BYTES];
    put32(item, file_bytes);
    put32(item + 4, bytes);
    put32(item + 8, checksum);
    int r = buf_add(&writer->items, item, sizeof(item));
    if (r == -EMSGSIZE)
        return fail_set(why, EOVERFLOW, "a snapshot of more than %zu frames", SEEKABLE_FRAMES_MAX);
    writer->bytes += r < 0 ? 0 : bytes;
    return r;
}

static int add_frame(struct seekable_writer *writer, const void *data, uint32_t file_bytes,
                     uint32_t bytes, uint32_t checksum, struct fail *why)
{
    int r = list(writer, file_bytes, bytes, checksum, why);
    return r < 0 ? r : append(writer, data, file_bytes, why);
}

/* What goes before a frame that would begin at file_bytes: a skippable frame, or nothing. */
static uint32_t padding_at(const struct seekable_writer *writer, uint64_t file_bytes)
{
    if (writer->block_bytes == 0)
        return 0;
    uint64_t bytes = -file_bytes & (writer->block_bytes - 1);
    if (bytes > 0 && bytes < SKIPPABLE_BYTES)
        bytes += writer->block_bytes;
    return (uint32_t)bytes;
}

bool seekable_is_padding(const void *data, size_t bytes)
{
    const unsigned char *frame = data;
    if (bytes < SKIPPABLE_BYTES || get32(frame) != SKIPPABLE_MAGIC ||
        get32(frame + 4) != bytes - SKIPPABLE_BYTES)
        return false;
    for (size_t i = SKIPPABLE_BYTES; i < bytes; i++)
        if (frame[i] != 0)
            return false;
    return true;
}

static int add_padding(struct seekable_writer *writer, struct fail *why)
{
    uint32_t bytes = padding_at(writer, writer->file_bytes);
    if (bytes == 0)
        return 0;
    unsigned char *frame = (unsigned char *)writer->piece;
    memset(frame, 0, bytes);
    put32(frame, SKIPPABLE_MAGIC);
    put32(frame + 4, bytes - SKIPPABLE_BYTES);
    return add_frame(writer, frame, bytes, 0, SEEKABLE_EMPTY_CHECKSUM, why);
}

int seekable_add_frame(struct seekable_writer *writer, const void *data, uint32_t file_bytes,
                       uint32_t bytes, uint32_t checksum, struct fail *why)
{
    assert(!writer->finished);
    if (file_bytes < SKIPPABLE_BYTES || bytes > SEEKABLE_FRAME_MAX_BYTES)
        return fail_set(why, EINVAL, "a frame of %u bytes that holds %u", file_bytes, bytes);
    int r = bytes > 0 ? add_padding(writer, why) : 0;
    return r < 0 ? r : add_frame(writer, data, file_bytes, bytes, checksum, why);
}

/* A run of bytes of another file, which is to go at the end of ours. */
struct run {
    int fd;
    uint64_t from;
    uint64_t bytes;
};

static int copy(struct seekable_writer *writer, struct run run, struct fail *why)
{
    while (run.bytes) {
        size_t want = run.bytes < PIECE_BYTES ? run.bytes : PIECE_BYTES;
        ssize_t n = fd_pread_full(run.fd, writer->piece, want, run.from);
        if (n < 0)
            return fail_set(why, EBADMSG, "cannot read the other snapshot: %s", strerror((int)-n));
        if ((size_t)n < want)
            return fail_set(why, EBADMSG, "the other snapshot is cut short");
        int r = append(writer, writer->piece, want, why);
        if (r < 0)
            return r;
        run.from += want;
        run.bytes -= want;
    }
    return 0;
}

static bool share(const struct seekable_writer *writer, const struct run *blocks)
{
    struct file_clone_range range = {
        .src_fd = blocks->fd,
        .src_offset = blocks->from,
        .src_length = blocks->bytes,
        .dest_offset = writer->file_bytes,
    };
    return ioctl(writer->fd, FICLONERANGE, &range) == 0;
}

/* Counts in what is shared at the end of the file.  It is this file that is read: the
 * hash is of what is there. */
static int count_in(struct seekable_writer *writer, uint64_t bytes, struct fail *why)
{
    while (bytes) {
        size_t want = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
        ssize_t n = fd_pread_full(writer->fd, writer->piece, want, writer->file_bytes);
        if (n < 0 || (size_t)n < want)
            return fail_errno(why, n < 0 ? (int)-n : EIO, "cannot read the snapshot back");
        int r = hash(writer, writer->piece, want, why);
        if (r < 0)
            return r;
        writer->file_bytes += want;
        writer->shared_bytes += want;
        bytes -= want;
    }
    return 0;
}

/* Adds the whole blocks that a run begins with by sharing them, where that is possible,
 * and takes them off it. */
static int place_shared(struct seekable_writer *writer, struct run *run, struct fail *why)
{
    if (!writer->may_share || run->from & (writer->block_bytes - 1))
        return 0;
    struct run blocks = *run;
    blocks.bytes -= run->bytes & (writer->block_bytes - 1);
    if (blocks.bytes == 0)
        return 0;
    writer->may_share = share(writer, &blocks);
    if (!writer->may_share)
        return 0;
    run->from += blocks.bytes;
    run->bytes -= blocks.bytes;
    return count_in(writer, blocks.bytes, why);
}

static int place(struct seekable_writer *writer, struct run run, struct fail *why)
{
    int r = place_shared(writer, &run, why);
    return r < 0 ? r : copy(writer, run, why);
}

static int list_all(struct seekable_writer *writer, const struct seekable_frame *frames,
                    size_t count, struct fail *why)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = list(writer, frames[i].file_bytes, frames[i].bytes, frames[i].checksum, why);
    return r;
}

/* How many of the frames, of which the first is no padding, stand there as they would
 * here: with just that padding between them that there would be. */
static size_t count_alike(const struct seekable_writer *writer, const struct seekable_frame *frames,
                          size_t count)
{
    uint64_t from = frames[0].file_offset;
    bool is_aligned = writer->block_bytes == 0 || (from & (writer->block_bytes - 1)) == 0;
    size_t alike = 1;
    for (size_t i = 1; is_aligned && i < count; i++) {
        uint32_t padding = padding_at(writer, frames[i].file_offset);
        bool is_padding = frames[i].bytes == 0;
        if (is_padding ? frames[i].file_bytes != padding || frames[i - 1].bytes == 0 : padding > 0)
            break;
        if (!is_padding)
            alike = i + 1;
    }
    return alike;
}

/* Takes over frames as they stand. */
static int add_run(struct seekable_writer *writer, int fd, const struct seekable_frame *frames,
                   size_t count, struct fail *why)
{
    int r = add_padding(writer, why);
    if (r < 0)
        return r;
    const struct seekable_frame *last = &frames[count - 1];
    struct run run = {.fd = fd,
                      .from = frames[0].file_offset,
                      .bytes = last->file_offset + last->file_bytes - frames[0].file_offset};
    r = place(writer, run, why);
    return r < 0 ? r : list_all(writer, frames, count, why);
}

static bool is_row(const struct seekable_frame *frames, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool follows =
            i == 0 || frames[i].file_offset == frames[i - 1].file_offset + frames[i - 1].file_bytes;
        if (!follows || frames[i].bytes > SEEKABLE_FRAME_MAX_BYTES)
            return false;
    }
    return true;
}

int seekable_add_from(struct seekable_writer *writer, int fd, const struct seekable_frame *frames,
                      size_t count, struct fail *why)
{
    assert(!writer->finished && count > 0);
    if (!is_row(frames, count))
        return fail_set(why, EINVAL, "frames that do not stand one behind the other");
    int r = 0;
    for (size_t i = 0; r == 0 && i < count;) {
        size_t alike = frames[i].bytes ? count_alike(writer, frames + i, count - i) : 1;
        if (frames[i].bytes)
            r = add_run(writer, fd, frames + i, alike, why);
        i += alike;
    }
    return r;
}

/* The seal stands before the table, of whose items it is the last. */
static int write_seal(struct seekable_writer *writer, const unsigned char *footer, struct fail *why)
{
    unsigned char seal[SEAL_BYTES];
    XXH64_state_t *state = XXH64_createState();
    if (!state)
        return -ENOMEM;
    (void)XXH64_reset(state, 0);
    (void)XXH64_update(state, writer->items.data, writer->items.len);
    (void)XXH64_update(state, footer, FOOTER_BYTES);
    put32(seal, SEAL_MAGIC);
    put32(seal + 4, SEAL_BYTES - SKIPPABLE_BYTES);
    put64(seal + 8, SEAL_MARK);
    put64(seal + 16, XXH64_digest(state));
    (void)XXH64_freeState(state);
    return append(writer, seal, sizeof(seal), why);
}

static int write_table(struct seekable_writer *writer, const unsigned char *footer,
                       struct fail *why)
{
    unsigned char head[SKIPPABLE_BYTES];
    put32(head, TABLE_MAGIC);
    put32(head + 4, (uint32_t)(writer->items.len + FOOTER_BYTES));
    int r = append(writer, head, sizeof(head), why);
    if (r == 0)
        r = append(writer, writer->items.data, writer->items.len, why);
    return r < 0 ? r : append(writer, footer, FOOTER_BYTES, why);
}

int seekable_finish(struct seekable_writer *writer, uint8_t ret_sha256[SEEKABLE_SHA256_BYTES],
                    struct fail *why)
{
    assert(!writer->finished);
    int r = list(writer, SEAL_BYTES, 0, SEEKABLE_EMPTY_CHECKSUM, why);
    if (r < 0)
        return r;
    unsigned char footer[FOOTER_BYTES];
    put32(footer, (uint32_t)(writer->items.len / ITEM_BYTES));
    footer[4] = FLAG_CHECKSUMS;
    put32(footer + 5, FOOTER_MAGIC);
    r = write_seal(writer, footer, why);
    if (r == 0)
        r = write_table(writer, footer, why);
    if (r < 0)
        return r;
    writer->finished = true;
    if (EVP_DigestFinal_ex(writer->sha256, ret_sha256, NULL) != 1)
        return fail_set(why, EIO, "SHA-256 failed");
    return 0;
}

/* ---- opening ------------------------------------------------------------------- */

/* Where a frame begins, in the file and decompressed; one more is the end. */
struct place {
    uint64_t file_offset;
    uint64_t offset;
};

struct seekable {
    int fd;
    bool has_checksums;
    size_t count;
    struct place *places; /* count + 1 */
    uint32_t *checksums;  /* NULL without */
    uint64_t seal;
    /* Only while it is opened: */
    uint64_t table; /* where it begins in the file */
    size_t item_bytes;
    XXH64_state_t *state;
};

static int damaged(struct fail *why)
{
    return fail_set(why, EBADMSG, "the table of its frames is damaged");
}

static int read_exactly(int fd, void *data, size_t bytes, uint64_t offset, struct fail *why)
{
    ssize_t n = fd_pread_full(fd, data, bytes, offset);
    if (n < 0)
        return fail_errno(why, (int)-n, "cannot read the snapshot");
    return (size_t)n == bytes ? 0 : fail_set(why, EBADMSG, "the snapshot is cut short");
}

/* Finds the table from the file's end and checks its outer sizes. */
static int read_footer(struct seekable *seekable, unsigned char *footer, struct fail *why)
{
    struct stat st;
    if (fstat(seekable->fd, &st) < 0)
        return fail_errno(why, errno, "cannot read the snapshot");
    uint64_t file_bytes = (uint64_t)st.st_size;
    if (file_bytes < SKIPPABLE_BYTES + FOOTER_BYTES)
        return fail_set(why, ENODATA, "there is no table of frames in it");
    int r = read_exactly(seekable->fd, footer, FOOTER_BYTES, file_bytes - FOOTER_BYTES, why);
    if (r < 0)
        return r;
    if (get32(footer + 5) != FOOTER_MAGIC)
        return fail_set(why, ENODATA, "there is no table of frames in it");
    seekable->count = get32(footer);
    seekable->has_checksums = footer[4] & FLAG_CHECKSUMS;
    seekable->item_bytes = seekable->has_checksums ? ITEM_BYTES : ITEM_PLAIN_BYTES;
    uint64_t bytes = (uint64_t)seekable->count * seekable->item_bytes + FOOTER_BYTES;
    if ((footer[4] & FLAGS_RESERVED) || bytes > file_bytes - SKIPPABLE_BYTES)
        return damaged(why);
    if (seekable->count > SEEKABLE_FRAMES_MAX)
        return fail_set(why, EOVERFLOW, "it has more than %zu frames", SEEKABLE_FRAMES_MAX);
    seekable->table = file_bytes - bytes - SKIPPABLE_BYTES;
    unsigned char head[SKIPPABLE_BYTES];
    r = read_exactly(seekable->fd, head, sizeof(head), seekable->table, why);
    if (r < 0)
        return r;
    return get32(head) == TABLE_MAGIC && get32(head + 4) == bytes ? 0 : damaged(why);
}

/* The item of the frame `index`, of which the frames before are known. */
static int take_item(struct seekable *seekable, size_t index, const unsigned char *item)
{
    const struct place *at = &seekable->places[index];
    uint32_t file_bytes = get32(item);
    uint32_t bytes = get32(item + 4);
    if (bytes > SEEKABLE_FRAME_MAX_BYTES)
        return -EBADMSG;
    seekable->places[index + 1] = (struct place){at->file_offset + file_bytes, at->offset + bytes};
    if (seekable->has_checksums)
        seekable->checksums[index] = get32(item + 8);
    return 0;
}

static int read_items(struct seekable *seekable, struct fail *why)
{
    unsigned char items[ITEMS_AT_ONCE * ITEM_BYTES];
    uint64_t offset = seekable->table + SKIPPABLE_BYTES;
    for (size_t done = 0; done < seekable->count;) {
        size_t left = seekable->count - done;
        size_t count = left < ITEMS_AT_ONCE ? left : ITEMS_AT_ONCE;
        size_t bytes = count * seekable->item_bytes;
        int r = read_exactly(seekable->fd, items, bytes, offset, why);
        if (r < 0)
            return r;
        (void)XXH64_update(seekable->state, items, bytes);
        for (size_t i = 0; i < count; i++, done++)
            if (take_item(seekable, done, items + i * seekable->item_bytes) < 0)
                return damaged(why);
        offset += bytes;
    }
    /* 2^24 numbers of 32 bits do not overflow one of 64: so no frame is beyond it either. */
    bool is_all = seekable->places[seekable->count].file_offset == seekable->table;
    return is_all ? 0 : damaged(why);
}

/* A table without a seal was made elsewhere, or it is the seal that was damaged. */
static int check_seal(const struct seekable *seekable, struct fail *why)
{
    unsigned char seal[SEAL_BYTES];
    if (seekable->table < sizeof(seal))
        return 0;
    int r = read_exactly(seekable->fd, seal, sizeof(seal), seekable->table - sizeof(seal), why);
    if (r < 0)
        return r;
    if (get32(seal) != SEAL_MAGIC || get32(seal + 4) != SEAL_BYTES - SKIPPABLE_BYTES ||
        get64(seal + 8) != SEAL_MARK)
        return 0;
    return get64(seal + 16) == seekable->seal ? 0 : damaged(why);
}

static int read_table(struct seekable *seekable, struct fail *why)
{
    unsigned char footer[FOOTER_BYTES];
    int r = read_footer(seekable, footer, why);
    if (r < 0)
        return r;
    seekable->places = calloc(seekable->count + 1, sizeof(*seekable->places));
    if (seekable->has_checksums)
        seekable->checksums = calloc(seekable->count + 1, sizeof(*seekable->checksums));
    if (!seekable->places || (seekable->has_checksums && !seekable->checksums))
        return -ENOMEM;
    r = read_items(seekable, why);
    if (r < 0)
        return r;
    (void)XXH64_update(seekable->state, footer, sizeof(footer));
    seekable->seal = XXH64_digest(seekable->state);
    return check_seal(seekable, why);
}

int seekable_open(int fd, struct seekable **ret_seekable, struct fail *why)
{
    struct seekable *seekable cleanup_seekable = calloc(1, sizeof(*seekable));
    if (!seekable || !(seekable->state = XXH64_createState()))
        return -ENOMEM;
    seekable->fd = fd;
    (void)XXH64_reset(seekable->state, 0);
    int r = read_table(seekable, why);
    if (r < 0)
        return r;
    *ret_seekable = take(seekable);
    return 0;
}

void seekable_close(struct seekable *seekable)
{
    if (!seekable)
        return;
    (void)XXH64_freeState(seekable->state);
    free(seekable->places);
    free(seekable->checksums);
    free(seekable);
}

/* ---- reading ------------------------------------------------------------------- */

size_t seekable_count(const struct seekable *seekable)
{
    return seekable->count;
}

uint64_t seekable_total_bytes(const struct seekable *seekable)
{
    return seekable->places[seekable->count].offset;
}

bool seekable_has_checksums(const struct seekable *seekable)
{
    return seekable->has_checksums;
}

void seekable_frame(const struct seekable *seekable, size_t index, struct seekable_frame *ret_frame)
{
    assert(index < seekable->count);
    const struct place *at = &seekable->places[index];
    *ret_frame = (struct seekable_frame){
        .file_offset = at->file_offset,
        .file_bytes = (uint32_t)(at[1].file_offset - at->file_offset),
        .bytes = (uint32_t)(at[1].offset - at->offset),
        .offset = at->offset,
        .checksum = seekable->has_checksums ? seekable->checksums[index] : 0,
    };
}

size_t seekable_find(const struct seekable *seekable, uint64_t offset)
{
    assert(offset < seekable_total_bytes(seekable));
    size_t low = 0; /* begins at offset or before; the last such one is not empty */
    size_t high = seekable->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (seekable->places[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Decompresses just one frame, which must have the sizes that the table says. */
static int decompress(const void *data, const struct seekable_frame *frame, void *buffer)
{
    if (ZSTD_findFrameCompressedSize(data, frame->file_bytes) != frame->file_bytes)
        return -EBADMSG;
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (!context)
        return -ENOMEM;
    size_t n = ZSTD_decompressDCtx(context, buffer, frame->bytes, data, frame->file_bytes);
    (void)ZSTD_freeDCtx(context);
    return !ZSTD_isError(n) && n == frame->bytes ? 0 : -EBADMSG;
}

int seekable_read(const struct seekable *seekable, size_t index, void *buffer, struct fail *why)
{
    struct seekable_frame frame;
    seekable_frame(seekable, index, &frame);
    if (frame.bytes == 0)
        return 0;
    if (frame.file_bytes > (uint64_t)frame.bytes * 2 + PIECE_BYTES)
        return fail_set(why, EOVERFLOW, "a frame of %u bytes that holds %u", frame.file_bytes,
                        frame.bytes);
    cleanup_free void *data = malloc(frame.file_bytes);
    if (!data)
        return -ENOMEM;
    int r = read_exactly(seekable->fd, data, frame.file_bytes, frame.file_offset, why);
    if (r == 0)
        r = decompress(data, &frame, buffer);
    if (r == 0 && seekable->has_checksums &&
        (uint32_t)XXH64(buffer, frame.bytes, 0) != frame.checksum)
        r = -EBADMSG;
    return r == -EBADMSG ? fail_set(why, EBADMSG, "it is damaged in frame %zu", index) : r;
}

uint64_t seekable_seal(const struct seekable *seekable)
{
    return seekable->seal;
}
