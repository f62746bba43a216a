/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SSDT of a machine with a PCI bus: the host bridge with its windows (devices/pci.h) and the place of
 * ECAM. acpi.c sets the 64-bit window, which follows from the memory size, and appends _PRT, which
 * follows from the slots in use.
 */
DefinitionBlock ("pci.aml", "SSDT", 2, "TORPOR", "TORPPCI", 0x00000001)
{
	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_BBN, Zero)
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0x0000, 0x0000, 0x000F, 0x0000, 0x0010)
				IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0x0000000000000000, 0x0000004000000000, 0x0000007FFFFFFFFF,
					0x0000000000000000, 0x0000004000000000)
			})
		}

		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xE0000000, 0x01000000)
			})
		}
	}
}
