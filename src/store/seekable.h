/* SPDX-License-Identifier: MIT */
/*
 * Files in the zstd seekable format 0.1.0: independent zstd frames, and a table of
 * their sizes as the last, skippable frame, so that any byte is found by reading
 * one frame.  To everybody else it is an ordinary .zst file.
 *
 *   frames...
 *   0x184D2A5E, 32-bit size of what follows        (all numbers little-endian)
 *     for each frame: its bytes in the file, its bytes decompressed, and the low
 *     half of the XXH64 of those (32 bits each; the last only with bit 7 below)
 *     32-bit number of frames, one byte of flags (bit 7: checksums; 6 to 2: zero),
 *     0x8F92EAB1
 *
 * Skippable frames are listed as well, with nothing in them.  Files written here
 * have two kinds of these: padding (see seekable_writer_new), and just before the
 * table a seal, which holds the XXH64 of the table.  Without it a bit flipped in
 * one frame's size would move all frames behind it, and sound bytes would be
 * given out for the wrong place.
 */
#ifndef DVOLFS_STORE_SEEKABLE_H
#define DVOLFS_STORE_SEEKABLE_H

#include "base/fail.h"

#include <stdbool.h>
#include <stdint.h>

/* The format's own limits, and how many frames we deal with (20 bytes of memory
 * each while such a file is open). */
#define SEEKABLE_FRAME_MAX_BYTES ((uint32_t)1 << 30)
#define SEEKABLE_FRAMES_MAX ((size_t)1 << 24)

#define SEEKABLE_SHA256_BYTES 32

struct seekable_frame {
    uint64_t file_offset; /* of the frame as it is in the file */
    uint32_t file_bytes;
    uint32_t bytes;    /* decompressed */
    uint64_t offset;   /* of these in all that is decompressed */
    uint32_t checksum; /* low half of their XXH64; 0 where the table has none */
};

/* ---- writing: one thread at a time ------------------------------------------- */

struct seekable_writer;

/*
 * A writer into fd, an empty file open for reading and writing that stays the
 * caller's and that nobody else touches.  NULL: out of memory.
 *
 * block_bytes (a power of two up to SEEKABLE_BLOCK_MAX_BYTES, or 0) is that of a file
 * system that can share blocks between files: every frame with something in it begins
 * at a whole block then, after padding where need be, because blocks can only be
 * shared whole.  Frames are where they are for their sizes alone: the file is the
 * same, byte for byte, whichever of them were taken over.
 */
#define SEEKABLE_BLOCK_MAX_BYTES 65536
must_check struct seekable_writer *seekable_writer_new(int fd, unsigned block_bytes);
void seekable_writer_free(struct seekable_writer *writer);
DEFINE_CLEANUP(cleanup_seekable_writer_impl, struct seekable_writer, seekable_writer_free)
#define cleanup_seekable_writer cleanup(cleanup_seekable_writer_impl)

/* The calls below, up to seekable_finish, return -errno with why: those of
 * pread(2) and pwrite(2) (ENOSPC, ...), -ENOMEM, -EINVAL: sizes out of the format's
 * range, -EOVERFLOW: over SEEKABLE_FRAMES_MAX.  After one the file is good for
 * nothing. */

/*
 * Adds one frame: file_bytes of data, which are `bytes` when decompressed and have
 * this checksum.  A skippable frame has 0 bytes and SEEKABLE_EMPTY_CHECKSUM.
 */
must_check int seekable_add_frame(struct seekable_writer *writer, const void *data,
                                  uint32_t file_bytes, uint32_t bytes, uint32_t checksum,
                                  struct fail *why);
#define SEEKABLE_EMPTY_CHECKSUM UINT32_C(0x51d8e999)

/*
 * Takes over frames of another such file, as told by a reader of it: count of them
 * (at least 1) that stand one behind the other there; those with nothing in them are
 * padding, and left out.  The frames' own offsets in what is decompressed do not matter.
 *
 * Where frames begin at whole blocks in both files, and the file system can share
 * them (XFS, btrfs; both files on it), whole blocks are shared: the more the longer the
 * run of frames is.  Elsewhere they are copied.  They are not decompressed: what is
 * damaged there is damaged here, and found when it is read.
 *
 * Also -EBADMSG: the other file cannot be read, or is shorter than that.
 */
must_check int seekable_add_from(struct seekable_writer *writer, int fd,
                                 const struct seekable_frame *frames, size_t count,
                                 struct fail *why);

/* What the file and what it decompresses to have so far. */
uint64_t seekable_file_bytes(const struct seekable_writer *writer);
uint64_t seekable_bytes(const struct seekable_writer *writer);

/* How many bytes of the file are blocks shared with another. */
uint64_t seekable_shared_bytes(const struct seekable_writer *writer);

/*
 * Writes the table: the file is complete, but not synced.  ret_sha256 is the
 * SHA-256 of all of it.  Nothing may be added any more.
 */
must_check int seekable_finish(struct seekable_writer *writer,
                               uint8_t ret_sha256[SEEKABLE_SHA256_BYTES], struct fail *why);

/* ---- reading: any thread, at the same time --------------------------------------- */

struct seekable;

/*
 * The table of the file, with every size in it checked against the file's.  fd
 * stays the caller's and must outlive what is returned.
 *
 * -ENODATA: there is no table at the end, as in any .zst made elsewhere, and in
 * what was cut short; -EBADMSG: there is one, and it is damaged; -EOVERFLOW: over
 * SEEKABLE_FRAMES_MAX; -ENOMEM; errors of fstat and pread.
 */
must_check int seekable_open(int fd, struct seekable **ret_seekable, struct fail *why);
void seekable_close(struct seekable *seekable);
DEFINE_CLEANUP(cleanup_seekable_impl, struct seekable, seekable_close)
#define cleanup_seekable cleanup(cleanup_seekable_impl)

size_t seekable_count(const struct seekable *seekable);
uint64_t seekable_total_bytes(const struct seekable *seekable);

/* Whether the table has checksums; only frames with one can be taken over. */
bool seekable_has_checksums(const struct seekable *seekable);

/* The frame of an index below seekable_count. */
void seekable_frame(const struct seekable *seekable, size_t index,
                    struct seekable_frame *ret_frame);

/* The index of the frame that holds the byte at offset, which is below
 * seekable_total_bytes. */
size_t seekable_find(const struct seekable *seekable, uint64_t offset);

/*
 * Decompresses a frame into buffer, which has room for its bytes, and checks it
 * against the table and its own checksum: 0.  Memory for the frame as it is in the
 * file is taken for the time of the call.
 *
 * -EBADMSG: damaged, and the buffer holds nothing to go by; -EOVERFLOW: a frame so
 * much larger than its contents that it makes no sense; -ENOMEM; errors of pread.
 */
must_check int seekable_read(const struct seekable *seekable, size_t index, void *buffer,
                             struct fail *why);

/* Whether these bytes are what a writer puts before a frame that is to begin a block: a
 * skippable frame (RFC 8878, 3.1.2) of zeros. */
bool seekable_is_padding(const void *data, size_t bytes);

/* What the seal holds, or would hold in a file without one: a number that stands for the
 * table, and by the checksums in it for the contents. */
uint64_t seekable_seal(const struct seekable *seekable);

#endif
