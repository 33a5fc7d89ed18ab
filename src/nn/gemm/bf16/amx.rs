//! What is written in AMX's instructions: blocks of 32 × 32 numbers of C in four of the eight tile registers.
//!
//! ```text
//!            B: 16 words × 16 columns a tile        tmm6  tmm7
//! A: 16 rows × 16 words a tile     tmm4             tmm0  tmm1      C, f32
//!                                  tmm5             tmm2  tmm3
//! ```
//!
//! A word is two neighbours along k, so one step of the loop goes 32 along k. The compiler's intrinsics for tiles are
//! not stable yet; inline assembly is.

use super::BLOCK;
use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile, and its words in a row.
const TILE: usize = 16;

/// Whether the CPU has the instructions, and the kernel lets this process use the registers (8 KiB a thread, which it
/// must save when it switches threads, and therefore wants to be asked for).
pub fn available() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| has_instructions() && ask_kernel())
}

/// AMX-TILE and AMX-BF16 by CPUID, leaf 7 (`is_x86_feature_detected!` does not know them on stable Rust).
fn has_instructions() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let edx = match std::arch::x86_64::__cpuid(0).eax {
        0..7 => 0,
        _ => std::arch::x86_64::__cpuid_count(7, 0).edx,
    };
    edx & AMX_BF16 != 0 && edx & AMX_TILE != 0
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: for all threads of the process, now and later.
#[cfg(target_os = "linux")]
fn ask_kernel() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call reads no memory of ours, and only allows what is asked for. `rcx` and `r11` are the system call's.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn ask_kernel() -> bool {
    false
}

/// The tile registers of this thread, configured as above until it is dropped.
pub struct Tiles(());

impl Tiles {
    /// Configures all eight as 16 rows of 64 bytes.
    pub fn configure() -> Self {
        assert!(available(), "this CPU has no AMX");
        /// The operand of LDTILECFG.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(TILE as u8);
        // SAFETY: the CPU has the instruction, and `config` is its 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(())
    }

    /// The product of 32 rows of A and two panels of B.
    ///
    /// `a`: 32 rows, `a_stride` words apart, of `words` words, a multiple of 16. `b`: two panels, `next_panel` words
    /// apart, of `words` × 16 words. Row-major 32 × 32.
    pub fn product(
        &self,
        (a, a_stride): (&[u32], usize),
        (b, next_panel): (&[u32], usize),
        words: usize,
        out: &mut [f32; BLOCK * BLOCK],
    ) {
        assert!(words > 0 && words.is_multiple_of(TILE));
        assert!(a.len() >= (BLOCK - 1) * a_stride + words && b.len() >= next_panel + words * TILE);
        // SAFETY: the assertions keep every tile inside its slice, the result is exactly `out`, and the registers are
        // configured for this thread, which `Tiles` does not leave.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a0} + {a_bytes}*1]",
                "tileloadd tmm6, [{b0} + {row}*1]",
                "tileloadd tmm7, [{b1} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {a_bytes}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + {out_bytes}*1], tmm0",
                "tilestored [{out} + {out_bytes}*1 + 64], tmm1",
                "tilestored [{half} + {out_bytes}*1], tmm2",
                "tilestored [{half} + {out_bytes}*1 + 64], tmm3",
                a0 = inout(reg) a.as_ptr() => _,
                a1 = inout(reg) a.as_ptr().add(TILE * a_stride) => _,
                b0 = inout(reg) b.as_ptr() => _,
                b1 = inout(reg) b.as_ptr().add(next_panel) => _,
                steps = inout(reg) words / TILE => _,
                a_bytes = in(reg) a_stride * 4,
                row = in(reg) 64usize,
                out = in(reg) out.as_mut_ptr(),
                half = in(reg) out.as_mut_ptr().add(TILE * BLOCK),
                out_bytes = in(reg) BLOCK * 4,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the CPU has the instruction. Empty registers need not be saved when threads are switched.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
